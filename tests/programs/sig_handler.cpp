// Inside a signal handler, on an alternate stack, with a frame to return to and a mask to get back.
#include "selfcheck.h"

namespace {

alignas(16) char other_stack[262144];
volatile int state;

void handler(int, siginfo_t* info, void*) {
  const int value = info->si_value.sival_int;
  char here[1000];
  fill(here, sizeof here, 3);
  ready();
  wait_for_go();
  require_filled(here, sizeof here, 3, "the frame of the handler");
  REQUIRE(&here[0] > &other_stack[0] && &here[0] < other_stack + sizeof other_stack, "the handler is on another stack");
  stack_t stack = {};
  must(sigaltstack(nullptr, &stack), "sigaltstack");
  REQUIRE(stack.ss_flags == SS_ONSTACK, "the kernel does not see us on the alternate stack: %x", stack.ss_flags);
  sigset_t mask;
  must(sigprocmask(SIG_BLOCK, nullptr, &mask), "sigprocmask");
  REQUIRE(sigismember(&mask, SIGUSR1) && sigismember(&mask, SIGHUP) && !sigismember(&mask, SIGTERM),
          "the mask inside the handler is wrong");
  REQUIRE(value == 99 && info->si_value.sival_int == 99, "the siginfo has changed");
  state = 2;
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  const stack_t stack = {other_stack, 0, sizeof other_stack};
  must(sigaltstack(&stack, nullptr), "sigaltstack");
  struct sigaction action = {};
  action.sa_sigaction = handler;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaddset(&action.sa_mask, SIGHUP);
  must(sigaction(SIGUSR1, &action, nullptr), "sigaction");
  double kept = 1.5;
  asm volatile("" : "+x"(kept));
  sigval value;
  value.sival_int = 99;
  state = 1;
  must(sigqueue(getpid(), SIGUSR1, value), "sigqueue");
  asm volatile("" : "+x"(kept));
  REQUIRE(state == 2 && kept == 1.5, "back from the handler: state %d, %g", state, kept);
  sigset_t mask;
  must(sigprocmask(SIG_BLOCK, nullptr, &mask), "sigprocmask");
  REQUIRE(!sigismember(&mask, SIGUSR1) && !sigismember(&mask, SIGHUP), "the mask was not put back");
  return passed();
}
