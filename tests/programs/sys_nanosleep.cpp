// nanosleep: sleeps for the rest of its time, not for the whole again, and not with EINTR.
#include "underway.h"

int main(int argc, char** argv) {
  begin(argc, argv);
  constexpr int64_t length = 3'000'000'000;
  timespec rest = {};  // the kernel may write it at every stop, even at one that nobody notices
  const int64_t start = now_ns();
  UnderWay sleeper(SYS_nanosleep, [&] {
    const timespec t = as_timespec(length);
    const long result = syscall(SYS_nanosleep, &t, &rest);
    REQUIRE(result == 0, "nanosleep: %s", strerror(errno));
  });
  // A good part of the sleep is over before the checkpoint: only so the rest can be told from the whole.
  while (now_ns() - start < 1'500'000'000) sleep_ns(10'000'000);
  ready();
  wait_for_go();
  const int64_t before = life_ns(), go = now_ns();
  sleeper.join();
  const int64_t asleep = now_ns() - start, alive = 1'500'000'000 + before + (now_ns() - go);
  REQUIRE(asleep >= length, "it slept only %lld ns", static_cast<long long>(asleep));
  REQUIRE(alive <= length + 900'000'000, "it slept on for %lld ns of life", static_cast<long long>(alive));
  return passed();
}
