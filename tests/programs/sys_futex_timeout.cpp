// A condition variable with a deadline that passes: ETIMEDOUT, neither early nor never.
#include "underway.h"

#include <linux/futex.h>
#include <pthread.h>

int main(int argc, char** argv) {
  begin(argc, argv);
  static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
  static uint32_t word = 7;
  const int64_t deadline = now_ns(CLOCK_REALTIME) + 2'500'000'000, start = now_ns();
  UnderWay absolute(SYS_futex, [&] {
    pthread_mutex_lock(&mutex);
    const timespec t = as_timespec(deadline);
    const int result = pthread_cond_timedwait(&condition, &mutex, &t);
    REQUIRE(result == ETIMEDOUT, "pthread_cond_timedwait gives %d", result);
    REQUIRE(now_ns(CLOCK_REALTIME) >= deadline, "pthread_cond_timedwait ended too early");
    pthread_mutex_unlock(&mutex);
  });
  // FUTEX_WAIT takes a relative time, and FUTEX_WAIT_BITSET an absolute one.
  UnderWay relative(SYS_futex, [&] {
    const timespec t = as_timespec(2'500'000'000);
    const long result = syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 7, &t, nullptr, 0);
    REQUIRE(result == -1 && errno == ETIMEDOUT, "FUTEX_WAIT gives %ld, %s", result, strerror(errno));
  });
  while (now_ns() - start < 1'200'000'000) sleep_ns(10'000'000);
  ready();
  wait_for_go();
  const int64_t before = life_ns(), go = now_ns();
  relative.join();
  const int64_t alive = 1'200'000'000 + before + (now_ns() - go);
  REQUIRE(now_ns() - start >= 2'500'000'000, "FUTEX_WAIT ended too early");
  // How much of the time is left the kernel tells nobody: a resumed call may wait all of it again.
  REQUIRE(alive <= 3'700'000'000 + 900'000'000, "FUTEX_WAIT waited %lld ns of life", static_cast<long long>(alive));
  absolute.join();
  return passed();
}
