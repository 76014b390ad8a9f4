// setitimer: the time left and the interval of all three timers, and one that ticks all the while.
#include "selfcheck.h"

#include <sys/time.h>

#include <atomic>

namespace {

std::atomic<int> ticks{0};

int64_t ns(const timeval& t) { return t.tv_sec * 1000000000LL + t.tv_usec * 1000LL; }

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  struct sigaction action = {};
  action.sa_handler = [](int) { ++ticks; };
  action.sa_flags = SA_RESTART;
  must(sigaction(SIGALRM, &action, nullptr), "sigaction");
  const itimerval virtual_timer = {{11, 500000}, {1000, 0}}, prof_timer = {{0, 0}, {500, 0}};
  const itimerval ticking = {{0, 20000}, {0, 20000}};
  must(setitimer(ITIMER_VIRTUAL, &virtual_timer, nullptr), "setitimer");
  must(setitimer(ITIMER_PROF, &prof_timer, nullptr), "setitimer");
  must(setitimer(ITIMER_REAL, &ticking, nullptr), "setitimer");
  wait_until([] { return ticks > 3; }, "SIGALRM comes");
  ready();
  wait_for_go();
  itimerval now;
  must(getitimer(ITIMER_VIRTUAL, &now), "getitimer");
  REQUIRE(ns(now.it_interval) == ns(virtual_timer.it_interval), "ITIMER_VIRTUAL: interval %lld ns",
          static_cast<long long>(ns(now.it_interval)));
  REQUIRE(now.it_value.tv_sec >= 970 && now.it_value.tv_sec <= 1000, "ITIMER_VIRTUAL: %ld s left", now.it_value.tv_sec);
  must(getitimer(ITIMER_PROF, &now), "getitimer");
  REQUIRE(ns(now.it_interval) == 0, "ITIMER_PROF has got an interval");
  REQUIRE(now.it_value.tv_sec >= 470 && now.it_value.tv_sec <= 500, "ITIMER_PROF: %ld s left", now.it_value.tv_sec);
  must(getitimer(ITIMER_REAL, &now), "getitimer");
  REQUIRE(ns(now.it_interval) == 20000000, "ITIMER_REAL: interval %lld ns",
          static_cast<long long>(ns(now.it_interval)));
  const int before = ticks;
  wait_until([&] { return ticks > before + 3; }, "SIGALRM comes again");
  return passed();
}
