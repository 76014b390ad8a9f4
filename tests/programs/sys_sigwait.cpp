// sigwaitinfo and sigtimedwait. A stop makes the kernel end them with EINTR; the program must not see that.
#include "underway.h"

#include <pthread.h>

int main(int argc, char** argv) {
  begin(argc, argv);
  sigset_t one, two, both;
  sigemptyset(&one);
  sigaddset(&one, SIGRTMIN + 1);
  sigemptyset(&two);
  sigaddset(&two, SIGRTMIN + 2);
  both = one;
  sigaddset(&both, SIGRTMIN + 2);
  must(sigprocmask(SIG_BLOCK, &both, nullptr), "sigprocmask");
  UnderWay endless(SYS_rt_sigtimedwait, [&] {
    siginfo_t info = {};
    const int got = sigwaitinfo(&one, &info);
    REQUIRE(got == SIGRTMIN + 1, "sigwaitinfo gives %d: %s", got, strerror(errno));
    REQUIRE(info.si_value.sival_int == 31, "sigwaitinfo gives value %d", info.si_value.sival_int);
  });
  UnderWay timed(SYS_rt_sigtimedwait, [&] {
    siginfo_t info = {};
    const timespec limit = {1000, 0};
    const int got = sigtimedwait(&two, &info, &limit);
    REQUIRE(got == SIGRTMIN + 2, "sigtimedwait gives %d: %s", got, strerror(errno));
  });
  ready();
  wait_for_go([&] { endless.require_inside("sigwaitinfo"); });
  endless.wait_inside();
  timed.wait_inside();
  sigval value;
  value.sival_int = 31;
  must(sigqueue(getpid(), SIGRTMIN + 1, value), "sigqueue");
  must(sigqueue(getpid(), SIGRTMIN + 2, value), "sigqueue");
  endless.join();
  timed.join();
  return passed();
}
