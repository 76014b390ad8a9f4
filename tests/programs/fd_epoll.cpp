// epoll: what is watched, for which events, with which data; edge-triggered, one-shot, nested; a target that was
// duplicated to another number; how it polls network devices.
#include "selfcheck.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>

#include <map>

namespace {

void add(int epoll, int fd, uint32_t events, uint64_t data) {
  epoll_event event = {};
  event.events = events;
  event.data.u64 = data;
  must(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event), "EPOLL_CTL_ADD");
}

/// struct epoll_params of Linux 6.9.
struct BusyPolling {
  uint32_t microseconds;
  uint16_t budget;
  uint8_t prefers, padding;
};
constexpr unsigned long kSetBusyPolling = _IOW(0x8A, 0x01, BusyPolling), kGetBusyPolling = _IOR(0x8A, 0x02, BusyPolling);

std::map<uint64_t, uint32_t> poll_now(int epoll) {
  epoll_event events[16];
  const int n = must(epoll_wait(epoll, events, 16, 0), "epoll_wait");
  std::map<uint64_t, uint32_t> all;
  for (int i = 0; i < n; ++i) all[events[i].data.u64] = events[i].events;
  return all;
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  const int outer = must(epoll_create1(EPOLL_CLOEXEC), "epoll_create1");
  const int inner = must(epoll_create1(0), "epoll_create1");
  const int set = must(eventfd(5, EFD_NONBLOCK), "eventfd"), unset = must(eventfd(0, EFD_NONBLOCK), "eventfd"),
            edge = must(eventfd(0, EFD_NONBLOCK), "eventfd"), once = must(eventfd(0, EFD_NONBLOCK), "eventfd"),
            spent = must(eventfd(1, EFD_NONBLOCK), "eventfd");
  const BusyPolling polling = {50, 8, 1, 0};
  const bool has_polling = ioctl(inner, kSetBusyPolling, &polling) == 0;
  int ends[2];
  must(pipe2(ends, O_NONBLOCK), "pipe2");
  add(inner, set, EPOLLIN, 0xdeadbeefcafe0001);
  add(inner, unset, EPOLLIN | EPOLLOUT, 0xffffffffffffffff);
  add(inner, ends[0], EPOLLIN | EPOLLRDHUP, 3);
  add(outer, inner, EPOLLIN, 100);
  add(outer, edge, EPOLLIN | EPOLLET, 101);
  add(outer, once, EPOLLIN | EPOLLONESHOT, 102);
  add(outer, spent, EPOLLIN | EPOLLONESHOT, 103);
  REQUIRE(poll_now(outer).count(103) == 1, "the one-shot event does not come");
  const std::string info[] = {read_text("/proc/self/fdinfo/" + std::to_string(inner)),
                              read_text("/proc/self/fdinfo/" + std::to_string(outer))};
  const auto watched = [](const std::string& text) {
    // The lines "tfd: N events: E data: D pos: P ino: I sdev: S", up to the data: the rest is of the target.
    std::string all;
    std::multimap<int, std::string> lines;
    for (size_t at = text.find("tfd:"); at != std::string::npos; at = text.find("tfd:", at + 1))
      lines.emplace(atoi(text.c_str() + at + 4), text.substr(at, text.find("pos:", at) - at));
    for (const auto& [fd, line] : lines) all += line + "\n";
    return all;
  };
  ready();
  wait_for_go();
  BusyPolling polling_now = {};
  if (has_polling) must(ioctl(inner, kGetBusyPolling, &polling_now), "EPIOCGPARAMS");
  REQUIRE(!has_polling || memcmp(&polling_now, &polling, sizeof polling) == 0, "busy polling has changed");
  const int epolls[] = {inner, outer};
  for (int i = 0; i < 2; ++i) {
    const std::string now = watched(read_text("/proc/self/fdinfo/" + std::to_string(epolls[i])));
    REQUIRE(now == watched(info[i]), "watched was:\n%s, is:\n%s", watched(info[i]).c_str(), now.c_str());
  }
  auto events = poll_now(inner);
  REQUIRE(events.size() == 2 && events[0xdeadbeefcafe0001] == EPOLLIN && events[0xffffffffffffffff] == EPOLLOUT,
          "inner: %zu events", events.size());
  events = poll_now(outer);
  REQUIRE(events.size() == 1 && events[100] == EPOLLIN, "outer: %zu events", events.size());
  must(eventfd_write(edge, 1), "eventfd_write");
  must(eventfd_write(once, 1), "eventfd_write");
  must(eventfd_write(spent, 1), "eventfd_write");
  events = poll_now(outer);
  REQUIRE(events.size() == 3 && events.count(101) && events.count(102), "outer, after three writes: %zu events",
          events.size());
  events = poll_now(outer);
  REQUIRE(events.size() == 1, "edge-triggered or one-shot events come again: %zu", events.size());
  REQUIRE(write(ends[1], "x", 1) == 1 && poll_now(inner)[3] == EPOLLIN, "the pipe is not watched");
  close(ends[1]);
  REQUIRE(poll_now(inner)[3] == (EPOLLIN | EPOLLHUP), "the pipe's end is not seen: %x", poll_now(inner)[3]);
  return passed();
}
