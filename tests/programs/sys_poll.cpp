// poll with a timeout that comes, with one that is far, and without one; ppoll.
#include "underway.h"

#include <poll.h>

int main(int argc, char** argv) {
  begin(argc, argv);
  int never[2], wake[2];
  must(pipe(never), "pipe");
  must(pipe(wake), "pipe");
  const auto wait = [&](int fd, int timeout, int expected) {
    pollfd waiting = {fd, POLLIN, 0};
    const long result = syscall(SYS_poll, &waiting, 1, timeout);
    REQUIRE(result == expected, "poll with timeout %d gives %ld: %s", timeout, result, strerror(errno));
    REQUIRE(waiting.revents == (expected ? POLLIN : 0), "poll: events %x", waiting.revents);
  };
  const int64_t start = now_ns();
  UnderWay comes(SYS_poll, [&] { wait(never[0], 2500, 0); });
  UnderWay far(SYS_poll, [&] { wait(wake[0], 1000000, 1); });
  UnderWay endless(SYS_poll, [&] { wait(wake[0], -1, 1); });
  UnderWay with_mask(SYS_ppoll, [&] {
    pollfd waiting = {wake[0], POLLIN, 0};
    const timespec limit = {1000, 0};
    sigset_t mask;
    sigfillset(&mask);
    const int result = ppoll(&waiting, 1, &limit, &mask);
    REQUIRE(result == 1, "ppoll gives %d: %s", result, strerror(errno));
  });
  while (now_ns() - start < 1'200'000'000) sleep_ns(10'000'000);
  ready();
  wait_for_go([&] {
    far.require_inside("poll with a far timeout");
    endless.require_inside("poll without timeout");
  });
  const int64_t before = life_ns(), go = now_ns();
  comes.join();
  const int64_t alive = 1'200'000'000 + before + (now_ns() - go);
  REQUIRE(now_ns() - start >= 2'500'000'000, "poll ended before its timeout");
  // How much of the time is left the kernel tells nobody: a resumed call may wait all of it again.
  REQUIRE(alive <= 3'700'000'000 + 900'000'000, "poll waited %lld ns of life", static_cast<long long>(alive));
  far.require_inside("poll with a far timeout");
  endless.require_inside("poll without timeout");
  with_mask.require_inside("ppoll");
  REQUIRE(write(wake[1], "x", 1) == 1, "write: %s", strerror(errno));
  far.join();
  endless.join();
  with_mask.join();
  return passed();
}
