// Connected pairs, stream and seqpacket: with data both ways, full, with halves shut, with the other end gone, broken.
#include "sockets.h"

namespace {

struct Halves {
  Ends pair;
  int shut_one;
};

std::string fill_up(int fd) {
  std::string all;
  for (uint64_t i = 0;; ++i) {
    const std::string piece = filled_text(4096, i);
    const ssize_t n = send(fd, piece.data(), piece.size(), MSG_DONTWAIT);
    if (n <= 0) return all;
    all += piece.substr(0, n);
  }
}

std::string drain(int fd) {
  std::string all;
  for (;;) {
    const std::string piece = receive(fd);
    if (piece == "EAGAIN") return all;
    REQUIRE(!piece.empty(), "the stream has ended");
    all += piece;
  }
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  const Ends idle = socket_pair(SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC), both = socket_pair(SOCK_STREAM),
             full = socket_pair(SOCK_STREAM), packets = socket_pair(SOCK_SEQPACKET), gone = socket_pair(SOCK_STREAM),
             broken = socket_pair(SOCK_STREAM), gone_packets = socket_pair(SOCK_SEQPACKET);
  const int never = unix_socket(SOCK_STREAM);
  send_text(both.one, "to the other");
  send_text(both.other, filled_text(100'000, 7));
  REQUIRE(receive(both.one, 5) == filled_text(100'000, 7).substr(0, 5), "the first bytes");
  const std::string whole = fill_up(full.one);
  for (int i = 0; i < 40; ++i) send_text(packets.one, std::string(i * 100 + 1, static_cast<char>('a' + i % 26)));
  send_text(packets.other, "back");
  send_text(gone.one, "the last words");
  close(gone.one);
  send_text(broken.one, "you never read it");
  send_text(broken.other, "but I said this");
  close(broken.other);
  send_text(gone_packets.one, "packet");
  close(gone_packets.one);
  std::vector<Halves> halves;
  for (const int type : {SOCK_STREAM, SOCK_SEQPACKET}) {
    for (const int how : {SHUT_RD, SHUT_WR, SHUT_RDWR}) {
      const Ends pair = socket_pair(type);
      send_text(pair.one, "before");
      send_text(pair.other, "before too");
      must(shutdown(pair.one, how), "shutdown");
      halves.push_back({pair, how});
    }
  }
  const int copy = must(dup(both.one), "dup");
  std::vector<short> before;
  for (const Halves& h : halves) before.insert(before.end(), {events(h.pair.one), events(h.pair.other)});
  const short broken_events = events(broken.one), gone_events = events(gone.other);
  REQUIRE(broken_events & POLLERR, "no error is pending");
  ready();
  wait_for_go([&] { REQUIRE(receive(idle.one) == "EAGAIN", "the idle pair has data"); });

  REQUIRE(fcntl(idle.one, F_GETFD) == FD_CLOEXEC && (fcntl(idle.other, F_GETFL) & O_NONBLOCK) != 0, "flags are lost");
  REQUIRE(fcntl(both.one, F_GETFD) == 0 && (fcntl(both.one, F_GETFL) & O_NONBLOCK) == 0, "flags have come");
  send_text(idle.one, "x");
  require_text(idle.other, "x", "the idle pair");
  require_text(both.other, "to the other", "one way");
  REQUIRE(drain(both.one) == filled_text(100'000, 7).substr(5), "the other way is wrong");
  send_text(copy, "through the duplicate");
  require_text(both.other, "through the duplicate", "the duplicate");
  REQUIRE(drain(full.other) == whole, "the full one has another content");
  send_text(full.one, "room again");
  require_text(full.other, "room again", "the full one, emptied");
  for (int i = 0; i < 40; ++i)
    require_text(packets.other, std::string(i * 100 + 1, static_cast<char>('a' + i % 26)), "a packet");
  require_text(packets.other, "EAGAIN", "after the packets");
  require_text(packets.one, "back", "the packet back");
  REQUIRE(events(gone.other) == gone_events, "events of a hung up one: %x, not %x", events(gone.other), gone_events);
  require_text(gone.other, "the last words", "hung up");
  require_text(gone.other, "", "hung up, at the end");
  REQUIRE(send(gone.other, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE, "somebody is there");
  REQUIRE(events(broken.one) == broken_events, "events of a broken one: %x, not %x", events(broken.one), broken_events);
  require_text(broken.one, "but I said this", "broken");
  require_text(broken.one, "ECONNRESET", "broken, then");
  require_text(broken.one, "", "broken, at the end");
  require_text(gone_packets.other, "packet", "hung up with a packet");
  require_text(gone_packets.other, "", "hung up with a packet, at the end");
  for (size_t i = 0; i < halves.size(); ++i) {
    const Halves& h = halves[i];
    REQUIRE(events(h.pair.one) == before[2 * i] && events(h.pair.other) == before[2 * i + 1],
            "events of halves %zu: %x %x, not %x %x", i, events(h.pair.one), events(h.pair.other), before[2 * i],
            before[2 * i + 1]);
    const bool can_send = h.shut_one == SHUT_RD;
    require_text(h.pair.other, "before", "halves, what was sent before");
    REQUIRE((send(h.pair.one, "x", 1, MSG_NOSIGNAL) == 1) == can_send, "halves %zu: sending", i);
    require_text(h.pair.one, "before too", "halves, what was sent before, back");
    require_text(h.pair.other, can_send ? "x" : "", "halves, then");
    REQUIRE((send(h.pair.other, "y", 1, MSG_NOSIGNAL) == 1) == (h.shut_one == SHUT_WR), "halves %zu: sending back", i);
  }
  REQUIRE(name_of(never, getpeername) == "ENOTCONN" && events(never) == (POLLOUT | POLLHUP), "the unconnected one has changed");
  return passed();
}
