// clock_nanosleep until an absolute time: it ends then, or at once if that time has passed.
#include "underway.h"

namespace {

void sleep_until(clockid_t clock, int64_t when) {
  const timespec t = as_timespec(when);
  const int result = clock_nanosleep(clock, TIMER_ABSTIME, &t, nullptr);
  REQUIRE(result == 0, "clock_nanosleep: %s", strerror(result));
  REQUIRE(now_ns(clock) >= when, "clock %d: it ended too early", clock);
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  const int64_t monotonic = now_ns() + 2'000'000'000, realtime = now_ns(CLOCK_REALTIME) + 2'000'000'000;
  UnderWay first(SYS_clock_nanosleep, [&] { sleep_until(CLOCK_MONOTONIC, monotonic); });
  UnderWay second(SYS_clock_nanosleep, [&] { sleep_until(CLOCK_REALTIME, realtime); });
  ready();
  wait_for_go();
  first.join();
  second.join();
  REQUIRE(now_ns() < monotonic + 20'000'000'000, "it ended much too late");
  return passed();
}
