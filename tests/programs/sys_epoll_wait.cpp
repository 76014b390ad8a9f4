// epoll_wait, without and with a timeout. A stop makes the kernel end it with EINTR; the program must not see that.
#include "underway.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

int main(int argc, char** argv) {
  begin(argc, argv);
  const int epoll = must(epoll_create1(0), "epoll_create1"), idle = must(epoll_create1(0), "epoll_create1");
  const int event = must(eventfd(0, 0), "eventfd");
  epoll_event watched = {};
  watched.events = EPOLLIN;
  watched.data.u64 = 77;
  must(epoll_ctl(epoll, EPOLL_CTL_ADD, event, &watched), "epoll_ctl");
  const int64_t start = now_ns();
  UnderWay endless(SYS_epoll_wait, [&] {
    epoll_event got = {};
    const int n = epoll_wait(epoll, &got, 1, -1);
    REQUIRE(n == 1, "epoll_wait gives %d: %s", n, strerror(errno));
    REQUIRE(got.data.u64 == 77 && got.events == EPOLLIN, "epoll_wait gives a wrong event");
  });
  UnderWay timed(SYS_epoll_wait, [&] {
    epoll_event got = {};
    const int n = epoll_wait(idle, &got, 1, 2000);
    REQUIRE(n == 0, "epoll_wait with a timeout gives %d: %s", n, strerror(errno));
  });
  ready();
  wait_for_go([&] { endless.require_inside("epoll_wait"); });
  endless.wait_inside();
  endless.require_inside("epoll_wait");
  must(eventfd_write(event, 1), "eventfd_write");
  endless.join();
  timed.join();
  REQUIRE(now_ns() - start >= 1'990'000'000, "epoll_wait ended before its timeout");
  return passed();
}
