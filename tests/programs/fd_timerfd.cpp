// timerfd: clock, time left, interval, expirations not yet read; absolute, and disarmed.
#include "selfcheck.h"

#include <poll.h>
#include <sys/timerfd.h>

namespace {

constexpr int64_t s = 1'000'000'000;

int make(clockid_t clock, int64_t value, int64_t interval, int flags = 0) {
  const int fd = must(timerfd_create(clock, TFD_NONBLOCK), "timerfd_create");
  const itimerspec spec = {as_timespec(interval), as_timespec(value)};
  must(timerfd_settime(fd, flags, &spec, nullptr), "timerfd_settime");
  return fd;
}

void require_left(int fd, int64_t least, int64_t most, int64_t interval, const char* what) {
  itimerspec spec = {};
  REQUIRE(timerfd_gettime(fd, &spec) == 0, "%s: %s", what, strerror(errno));
  const int64_t left = spec.it_value.tv_sec * s + spec.it_value.tv_nsec;
  REQUIRE(left >= least && left <= most, "%s: %lld ns left", what, static_cast<long long>(left));
  REQUIRE(spec.it_interval.tv_sec * s + spec.it_interval.tv_nsec == interval, "%s: the interval is wrong", what);
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  const int monotonic = make(CLOCK_MONOTONIC, 1000 * s, 7 * s);
  const int boottime = make(CLOCK_BOOTTIME, 2000 * s, 0);
  const int64_t absolute = now_ns(CLOCK_REALTIME) + 3000 * s;
  const int realtime = make(CLOCK_REALTIME, absolute, 0, TFD_TIMER_ABSTIME);
  const int disarmed = must(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK), "timerfd_create");
  const int expired = make(CLOCK_MONOTONIC, 1000000, 0);
  const int ticking = make(CLOCK_MONOTONIC, s / 100, s / 100);
  pollfd waiting = {expired, POLLIN, 0};
  must(poll(&waiting, 1, 5000), "poll");
  waiting.fd = ticking;
  must(poll(&waiting, 1, 5000), "poll");
  ready();
  wait_for_go();
  require_left(monotonic, 960 * s, 1000 * s, 7 * s, "CLOCK_MONOTONIC");
  require_left(boottime, 1960 * s, 2000 * s, 0, "CLOCK_BOOTTIME");
  const int64_t rest = absolute - now_ns(CLOCK_REALTIME);
  require_left(realtime, rest - s, rest + 30 * s, 0, "CLOCK_REALTIME");
  require_left(disarmed, 0, 0, 0, "a disarmed timer");
  uint64_t count = 0;
  REQUIRE(read(expired, &count, 8) == 8 && count == 1, "the expired timer: %llu", static_cast<unsigned long long>(count));
  REQUIRE(read(expired, &count, 8) == -1 && errno == EAGAIN, "the expired timer expires again");
  REQUIRE(read(ticking, &count, 8) == 8 && count >= 1, "the ticking timer: %s", strerror(errno));
  REQUIRE(poll(&waiting, 1, 5000) == 1 && read(ticking, &count, 8) == 8, "the ticking timer does not tick on");
  REQUIRE(read(disarmed, &count, 8) == -1 && errno == EAGAIN, "the disarmed timer has expired");
  return passed();
}
