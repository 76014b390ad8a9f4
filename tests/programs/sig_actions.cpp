// Signal actions: handlers with all their flags and masks, ignored signals, one that resets itself; they still work.
#include "selfcheck.h"

namespace {

// What the kernel keeps; glibc's sigaction hides the restorer.
struct KernelAction {
  uint64_t handler, flags, restorer, mask;
  bool operator==(const KernelAction&) const = default;
};

volatile sig_atomic_t caught, caught_value, on_other_stack;
alignas(16) char other_stack[65536];

void handler(int signal) { caught = signal; }

void info_handler(int signal, siginfo_t* info, void*) {
  char here;
  caught = signal;
  caught_value = info->si_value.sival_int;
  on_other_stack = &here >= other_stack && &here < other_stack + sizeof other_stack;
}

void set(int signal, void (*f)(int), int flags, std::initializer_list<int> mask) {
  struct sigaction action = {};
  action.sa_handler = f;
  action.sa_flags = flags;
  for (int s : mask) sigaddset(&action.sa_mask, s);
  must(sigaction(signal, &action, nullptr), "sigaction");
}

KernelAction get(int signal) {
  KernelAction action = {};
  must(syscall(SYS_rt_sigaction, signal, nullptr, &action, 8), "rt_sigaction");
  return action;
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  auto* const with_info = reinterpret_cast<void (*)(int)>(reinterpret_cast<void*>(info_handler));
  set(SIGUSR1, handler, SA_RESTART, {SIGUSR2, SIGTERM});
  set(SIGUSR2, with_info, SA_SIGINFO | SA_ONSTACK, {SIGRTMIN, SIGRTMAX});
  set(SIGHUP, SIG_IGN, 0, {});
  set(SIGPIPE, SIG_IGN, SA_RESTART, {SIGINT});
  set(SIGWINCH, handler, SA_NODEFER | static_cast<int>(SA_RESETHAND), {});
  set(SIGCHLD, SIG_DFL, SA_NOCLDWAIT | SA_NOCLDSTOP, {});
  set(SIGRTMIN + 5, with_info, SA_SIGINFO | SA_RESTART | SA_ONSTACK, {SIGRTMIN + 6});
  set(SIGRTMAX, handler, SA_NODEFER, {});
  const stack_t stack = {other_stack, 0, sizeof other_stack};
  must(sigaltstack(&stack, nullptr), "sigaltstack");
  KernelAction before[65] = {};
  for (int s = 1; s < 65; ++s) before[s] = get(s);
  // Flags and mask of a signal that is ignored or left to its default mean nothing, but for SIGCHLD's flags.
  const auto same = [&](int s, const KernelAction& now) {
    if (now.handler != before[s].handler) return false;
    if (s == SIGCHLD && ((now.flags ^ before[s].flags) & (SA_NOCLDWAIT | SA_NOCLDSTOP))) return false;
    return now.handler <= 1 || now == before[s];
  };
  ready();
  wait_for_go();
  for (int s = 1; s < 65; ++s) {
    const KernelAction now = get(s);
    REQUIRE(same(s, now), "signal %d: handler %llx, flags %llx, mask %llx; was %llx, %llx, %llx", s,
            static_cast<unsigned long long>(now.handler), static_cast<unsigned long long>(now.flags),
            static_cast<unsigned long long>(now.mask), static_cast<unsigned long long>(before[s].handler),
            static_cast<unsigned long long>(before[s].flags), static_cast<unsigned long long>(before[s].mask));
  }
  stack_t stack_now = {};
  must(sigaltstack(nullptr, &stack_now), "sigaltstack");
  REQUIRE(stack_now.ss_sp == other_stack && stack_now.ss_size == sizeof other_stack && stack_now.ss_flags == 0,
          "the alternate stack is at %p", stack_now.ss_sp);
  raise(SIGUSR1);
  REQUIRE(caught == SIGUSR1, "SIGUSR1 is not caught");
  sigval value;
  value.sival_int = 4711;
  must(sigqueue(getpid(), SIGUSR2, value), "sigqueue");
  REQUIRE(caught == SIGUSR2 && caught_value == 4711 && on_other_stack, "SIGUSR2: %d with %d, on the other stack: %d",
          caught, caught_value, on_other_stack);
  raise(SIGHUP);
  raise(SIGPIPE);
  raise(SIGWINCH);
  REQUIRE(caught == SIGWINCH && get(SIGWINCH).handler == 0, "SIGWINCH does not reset its handler");
  return passed();
}
