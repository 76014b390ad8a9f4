// TCP connections whose two ends are both here: with something on the way in both directions, with full queues, over IPv4,
// IPv6, and IPv4 in an IPv6 socket; what has been negotiated, options, and the port that a listening socket has too.
#include "inet.h"

namespace {

/// What must not change.
struct Negotiated {
  unsigned options, snd_scale, rcv_scale;
  int segment;
  explicit Negotiated(int fd) {
    const tcp_info info = tcp_info_of(fd);
    options = info.tcpi_options & (TCPI_OPT_TIMESTAMPS | TCPI_OPT_SACK | TCPI_OPT_WSCALE);
    snd_scale = info.tcpi_snd_wscale;
    rcv_scale = info.tcpi_rcv_wscale;
    segment = int_option(fd, TCP_MAXSEG, IPPROTO_TCP);
  }
  void require_same(int fd, const char* what) const {
    const Negotiated now(fd);
    REQUIRE(now.options == options, "%s: options %#x, not %#x", what, now.options, options);
    REQUIRE(now.snd_scale == snd_scale && now.rcv_scale == rcv_scale, "%s: window scales %u %u, not %u %u", what,
            now.snd_scale, now.rcv_scale, snd_scale, rcv_scale);
    REQUIRE(now.segment == segment, "%s: segments of %d bytes, not %d", what, now.segment, segment);
  }
};

void exchange(const Ends& ends, const char* what) {
  for (int turn = 0; turn < 3; ++turn) {
    send_text(ends.one, "there");
    await_text(ends.other, "there", what);
    send_text(ends.other, "and back");
    await_text(ends.one, "and back", what);
  }
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  const int listening = listen_at(loopback());
  const sockaddr_in address = address_of<sockaddr_in>(listening, getsockname);
  const Ends idle = connection_to(listening, address), queued = connection_to(listening, address),
             full = connection_to(listening, address), wide = connection_to(listening, address);
  set_int_option(idle.one, TCP_NODELAY, 1, IPPROTO_TCP);
  set_int_option(idle.other, TCP_KEEPIDLE, 99, IPPROTO_TCP);
  set_int_option(idle.other, SO_KEEPALIVE, 1);
  set_int_option(full.one, SO_RCVBUF, 200'000);
  set_int_option(wide.one, SO_REUSEADDR, 1);
  exchange(idle, "the idle one");
  send_text(queued.one, "to the other");
  send_text(queued.other, "to the one");
  wait_readable(queued.one);
  wait_readable(queued.other);
  const size_t there = fill_connection(full.one, 1), back = fill_connection(full.other, 2);
  const sockaddr_in name = address_of<sockaddr_in>(idle.one, getsockname), peer = address_of<sockaddr_in>(queued.other, getpeername);
  const Negotiated idle_was(idle.one), full_was(full.other);
  const int sndbuf = int_option(full.one, SO_SNDBUF), rcvbuf = int_option(full.one, SO_RCVBUF);

  // Where this host has IPv6.
  const int six = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
  Ends over_six = {-1, -1}, mapped = {-1, -1};
  const sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = 0, .sin6_flowinfo = 0, .sin6_addr = in6addr_any, .sin6_scope_id = 0};
  const bool has_six = six >= 0 && bind(six, reinterpret_cast<const sockaddr*>(&any), sizeof any) == 0 && listen(six, 9) == 0;
  if (has_six) {
    const in_port_t port = address_of<sockaddr_in6>(six, getsockname).sin6_port;
    over_six = connection_to(six, loopback6(port));
    mapped = connection_to(six, loopback(port));
    send_text(over_six.one, "over IPv6");
    send_text(mapped.one, "mapped");
    wait_readable(over_six.other);
    wait_readable(mapped.other);
  }
  ready();
  wait_for_go();

  REQUIRE(receive(idle.one) == "EAGAIN" && receive(idle.other) == "EAGAIN", "the idle one has something");
  REQUIRE(int_option(idle.one, TCP_NODELAY, IPPROTO_TCP) == 1, "TCP_NODELAY");
  REQUIRE(int_option(idle.other, TCP_KEEPIDLE, IPPROTO_TCP) == 99, "TCP_KEEPIDLE");
  REQUIRE(int_option(idle.other, SO_KEEPALIVE) == 1, "SO_KEEPALIVE");
  REQUIRE(int_option(idle.one, SO_REUSEADDR) == 0 && int_option(wide.one, SO_REUSEADDR) == 1, "SO_REUSEADDR");
  REQUIRE(int_option(full.one, SO_RCVBUF) == rcvbuf, "SO_RCVBUF is %d, not %d", int_option(full.one, SO_RCVBUF), rcvbuf);
  REQUIRE(int_option(full.one, SO_SNDBUF) >= sndbuf, "SO_SNDBUF is %d, not %d", int_option(full.one, SO_SNDBUF), sndbuf);
  const sockaddr_in name_now = address_of<sockaddr_in>(idle.one, getsockname), peer_now = address_of<sockaddr_in>(queued.other, getpeername);
  REQUIRE(memcmp(&name, &name_now, sizeof name) == 0, "the name has changed");
  REQUIRE(memcmp(&peer, &peer_now, sizeof peer) == 0, "the peer has changed");
  idle_was.require_same(idle.one, "the idle one");
  full_was.require_same(full.other, "the full one");

  exchange(idle, "the idle one");
  await_text(queued.other, "to the other", "the one with something in it");
  await_text(queued.one, "to the one", "the one with something in it");
  exchange(queued, "the one that had something in it");
  require_content(full.other, there, 1, "the full one, there");
  require_content(full.one, back, 2, "the full one, back");
  exchange(full, "the one that was full");
  exchange(wide, "the last one");
  exchange(connection_to(listening, address), "a new one");
  if (has_six) {
    await_text(over_six.other, "over IPv6", "IPv6");
    await_text(mapped.other, "mapped", "IPv4 in IPv6");
    exchange(over_six, "IPv6");
    exchange(mapped, "IPv4 in IPv6");
    const auto mapped_peer = address_of<sockaddr_in6>(mapped.other, getpeername);
    REQUIRE(IN6_IS_ADDR_V4MAPPED(&mapped_peer.sin6_addr), "a mapped one is not any more");
  }
  return passed();
}
