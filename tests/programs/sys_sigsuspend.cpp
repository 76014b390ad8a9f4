// sigsuspend: another mask while it waits, the old one afterwards; the handler has run when it returns.
#include "underway.h"

#include <pthread.h>

namespace {
std::atomic<int> caught{0};
}

int main(int argc, char** argv) {
  begin(argc, argv);
  struct sigaction action = {};
  action.sa_handler = [](int) { ++caught; };
  must(sigaction(SIGUSR1, &action, nullptr), "sigaction");
  must(sigaction(SIGUSR2, &action, nullptr), "sigaction");
  sigset_t both;
  sigemptyset(&both);
  sigaddset(&both, SIGUSR1);
  sigaddset(&both, SIGUSR2);
  must(sigprocmask(SIG_BLOCK, &both, nullptr), "sigprocmask");
  std::atomic<pthread_t> thread{0};
  UnderWay waiter(SYS_rt_sigsuspend, [&] {
    thread = pthread_self();
    sigset_t waiting;
    sigemptyset(&waiting);
    sigaddset(&waiting, SIGUSR2);
    const int result = sigsuspend(&waiting);
    REQUIRE(result == -1 && errno == EINTR, "sigsuspend gives %d", result);
    REQUIRE(caught == 1, "sigsuspend ends after %d signals", caught.load());
    sigset_t now;
    pthread_sigmask(SIG_BLOCK, nullptr, &now);
    REQUIRE(sigismember(&now, SIGUSR1) && sigismember(&now, SIGUSR2), "sigsuspend does not put the mask back");
  });
  ready();
  wait_for_go([&] { waiter.require_inside("sigsuspend"); });
  waiter.wait_inside();
  pthread_kill(thread, SIGUSR2);  // stays blocked during sigsuspend
  sleep_ns(50'000'000);
  waiter.require_inside("sigsuspend");
  pthread_kill(thread, SIGUSR1);
  waiter.join();
  return passed();
}
