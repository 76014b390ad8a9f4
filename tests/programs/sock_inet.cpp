// Internet sockets without a connection: UDP, bound, connected and wild, UDP-lite; TCP that listens, that is bound, that is
// new; IPv4 and IPv6; their options and owners.
#include "inet.h"

#include <linux/net_tstamp.h>

namespace {

constexpr int kRtoMax = 44, kMilliseconds = 50'000;  // TCP_RTO_MAX_MS

void set(int fd, int level, int option, int value) { set_int_option(fd, option, value, level); }

int get(int fd, int level, int option) { return int_option(fd, option, level); }

void require_option(int fd, int level, int option, int value, const char* what) {
  REQUIRE(get(fd, level, option) == value, "%s is %d, not %d", what, get(fd, level, option), value);
}

int make(int domain, int type, int protocol = 0) { return must(socket(domain, type, protocol), "socket"); }

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  const int bound = make(AF_INET, SOCK_DGRAM), other = make(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK);
  bind_to(bound, loopback());
  const in_port_t port = address_of<sockaddr_in>(bound, getsockname).sin_port;
  set(bound, SOL_SOCKET, SO_BROADCAST, 1);
  set(bound, SOL_SOCKET, SO_RCVBUF, 50'000);
  set(bound, IPPROTO_IP, IP_TOS, 0x10);
  set(bound, IPPROTO_IP, IP_PKTINFO, 1);
  set(bound, IPPROTO_IP, IP_MULTICAST_TTL, 7);
  const int size = get(bound, SOL_SOCKET, SO_RCVBUF);
  connect_to(other, loopback(port));
  const in_port_t other_port = address_of<sockaddr_in>(other, getsockname).sin_port;
  const int wild = make(AF_INET, SOCK_DGRAM), lite = socket(AF_INET, SOCK_DGRAM, IPPROTO_UDPLITE);
  sockaddr_in any = {};
  any.sin_family = AF_INET;
  bind_to(wild, any);
  const in_port_t wild_port = address_of<sockaddr_in>(wild, getsockname).sin_port;
  if (lite >= 0) set(lite, IPPROTO_UDPLITE, 10, 12);

  const int listening = make(AF_INET, SOCK_STREAM | SOCK_NONBLOCK), fresh = make(AF_INET, SOCK_STREAM), idle = make(AF_INET, SOCK_STREAM);
  bind_to(listening, loopback());
  const in_port_t tcp_port = address_of<sockaddr_in>(listening, getsockname).sin_port;
  set(listening, IPPROTO_TCP, TCP_NODELAY, 1);
  set(listening, IPPROTO_TCP, TCP_KEEPIDLE, 77);
  set(listening, SOL_SOCKET, SO_KEEPALIVE, 1);
  must(listen(listening, 3), "listen");
  set(fresh, IPPROTO_TCP, TCP_USER_TIMEOUT, 5000);
  set(fresh, SOL_SOCKET, SO_MAX_PACING_RATE, 1'000'000);
  set(other, SOL_SOCKET, SO_INCOMING_CPU, 0);
  const int rto_max = setsockopt(fresh, IPPROTO_TCP, kRtoMax, &kMilliseconds, sizeof kMilliseconds);  // Linux 6.15
  const sock_txtime send_time = {CLOCK_TAI, SOF_TXTIME_DEADLINE_MODE};
  must(setsockopt(wild, SOL_SOCKET, SO_TXTIME, &send_time, sizeof send_time), "SO_TXTIME");
  bind_to(idle, loopback());
  const in_port_t idle_port = address_of<sockaddr_in>(idle, getsockname).sin_port;

  // Where this host has IPv6.
  const int six = socket(AF_INET6, SOCK_STREAM, 0);
  sockaddr_in6 six_name = {};
  six_name.sin6_family = AF_INET6;
  bool has_six = six >= 0;
  if (has_six) {
    set(six, IPPROTO_IPV6, IPV6_V6ONLY, 1);
    has_six = bind(six, reinterpret_cast<sockaddr*>(&six_name), sizeof six_name) == 0 && listen(six, 9) == 0;
    six_name = address_of<sockaddr_in6>(six, getsockname);
  }
  ready();
  wait_for_go();

  REQUIRE(address_of<sockaddr_in>(bound, getsockname).sin_port == port, "the port has changed");
  require_option(bound, SOL_SOCKET, SO_BROADCAST, 1, "SO_BROADCAST");
  require_option(bound, SOL_SOCKET, SO_REUSEADDR, 0, "SO_REUSEADDR");
  require_option(bound, SOL_SOCKET, SO_RCVBUF, size, "SO_RCVBUF");
  require_option(bound, IPPROTO_IP, IP_TOS, 0x10, "IP_TOS");
  require_option(bound, IPPROTO_IP, IP_PKTINFO, 1, "IP_PKTINFO");
  require_option(bound, IPPROTO_IP, IP_MULTICAST_TTL, 7, "IP_MULTICAST_TTL");
  require_option(other, SOL_SOCKET, SO_INCOMING_CPU, 0, "SO_INCOMING_CPU");
  REQUIRE(address_of<sockaddr_in>(other, getpeername).sin_port == port, "the peer has changed");
  REQUIRE(address_of<sockaddr_in>(other, getsockname).sin_port == other_port, "the connected one's port has changed");
  REQUIRE((fcntl(other, F_GETFL) & O_NONBLOCK) != 0 && fcntl(other, F_GETFD) == FD_CLOEXEC, "flags");
  send_text(other, "to the bound one");
  await_text(bound, "to the bound one", "the bound one");
  REQUIRE(address_of<sockaddr_in>(wild, getsockname).sin_port == wild_port, "the wild one's port has changed");
  const sockaddr_in to_wild = loopback(wild_port);
  REQUIRE(sendto(bound, "wild", 4, 0, reinterpret_cast<const sockaddr*>(&to_wild), sizeof to_wild) == 4, "sendto: %s", strerror(errno));
  await_text(wild, "wild", "the wild one");
  if (lite >= 0) require_option(lite, IPPROTO_UDPLITE, 10, 12, "UDPLITE_SEND_CSCOV");
  sock_txtime send_time_now = {};
  socklen_t length = sizeof send_time_now;
  must(getsockopt(wild, SOL_SOCKET, SO_TXTIME, &send_time_now, &length), "SO_TXTIME");
  REQUIRE(memcmp(&send_time_now, &send_time, sizeof send_time) == 0, "SO_TXTIME has changed");

  REQUIRE(address_of<sockaddr_in>(listening, getsockname).sin_port == tcp_port, "the listening one's port has changed");
  require_option(listening, SOL_SOCKET, SO_ACCEPTCONN, 1, "SO_ACCEPTCONN");
  require_option(listening, SOL_SOCKET, SO_KEEPALIVE, 1, "SO_KEEPALIVE");
  require_option(listening, SOL_SOCKET, SO_REUSEADDR, 0, "SO_REUSEADDR of TCP");
  require_option(listening, IPPROTO_TCP, TCP_NODELAY, 1, "TCP_NODELAY");
  require_option(listening, IPPROTO_TCP, TCP_KEEPIDLE, 77, "TCP_KEEPIDLE");
  REQUIRE(tcp_info_of(listening).tcpi_sacked == 3, "the backlog is %u", tcp_info_of(listening).tcpi_sacked);
  require_option(fresh, IPPROTO_TCP, TCP_USER_TIMEOUT, 5000, "TCP_USER_TIMEOUT");
  require_option(fresh, SOL_SOCKET, SO_MAX_PACING_RATE, 1'000'000, "SO_MAX_PACING_RATE");
  if (rto_max == 0) require_option(fresh, IPPROTO_TCP, kRtoMax, kMilliseconds, "TCP_RTO_MAX_MS");
  connect_to(fresh, loopback(tcp_port));
  wait_readable(listening);
  const int accepted = must(accept(listening, nullptr, nullptr), "accept");
  send_text(fresh, "over TCP");
  await_text(accepted, "over TCP", "the accepted one");
  REQUIRE(address_of<sockaddr_in>(idle, getsockname).sin_port == idle_port, "the idle one's port has changed");
  connect_to(idle, loopback(tcp_port));
  if (has_six) {
    const sockaddr_in6 now = address_of<sockaddr_in6>(six, getsockname);
    REQUIRE(memcmp(&now, &six_name, sizeof now) == 0, "the IPv6 address has changed");
    require_option(six, IPPROTO_IPV6, IPV6_V6ONLY, 1, "IPV6_V6ONLY");
    require_option(six, SOL_SOCKET, SO_ACCEPTCONN, 1, "SO_ACCEPTCONN of IPv6");
  }
  return passed();
}
