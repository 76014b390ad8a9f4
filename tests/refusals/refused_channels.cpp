// Pipes, sockets and terminals.
#include "refused.h"

#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <termios.h>

#include "../programs/netlink.h"

namespace {

/// One of a pair; the other is open outside the tree alone.
int half_outside(int (*make)(int ends[2])) {
  int ends[2];
  must(make(ends), "a pair");
  outside([&] { close(ends[0]); });
  close(ends[1]);
  return ends[0];
}

Words pipe_outside() {
  return {of_fd(half_outside(pipe), "a pipe whose other end is outside the process tree")};
}

Words fifo_outside() {
  const std::string name = path("fifo");
  must(mkfifo(name.c_str(), 0600), "mkfifo");
  const int both = must(open(name.c_str(), O_RDWR | O_CLOEXEC), "open");
  const int fd = must(open(name.c_str(), O_RDONLY | O_CLOEXEC), "open");
  outside([&] { close(fd); });
  close(both);
  return {of_fd(fd, "a FIFO (" + name + ") whose other end is outside")};
}

Words unix_outside() {
  const int fd = half_outside([](int ends[2]) { return socketpair(AF_UNIX, SOCK_STREAM, 0, ends); });
  return {of_fd(fd, "a unix socket"), "whose other end is outside the process tree"};
}

sockaddr_un unix_address() {
  sockaddr_un address{AF_UNIX, {}};
  snprintf(address.sun_path, sizeof address.sun_path, "%s/socket", directory.c_str());
  return address;
}

int unix_listener(const sockaddr_un& address) {
  const int fd = must(socket(AF_UNIX, SOCK_STREAM, 0), "socket");
  must(bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address), "bind");
  must(listen(fd, 4), "listen");
  return fd;
}

void connect_to(int fd, const sockaddr_un& address) {
  must(connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address), "connect");
}

Words unix_stranger() {
  const sockaddr_un address = unix_address();
  const int fd = unix_listener(address);
  outside([&] {
    close(fd);
    connect_to(must(socket(AF_UNIX, SOCK_STREAM, 0), "socket"), address);
  });
  return {of_fd(fd, "a unix socket"), "with connections from outside the process tree"};
}

Words unix_sent_early() {
  const sockaddr_un address = unix_address();
  unix_listener(address);
  const int fd = must(socket(AF_UNIX, SOCK_STREAM, 0), "socket");
  connect_to(fd, address);
  REQUIRE(write(fd, "early", 5) == 5, "write");
  return {of_fd(fd, "a unix socket"), "that has sent data before it was accepted"};
}

Words unix_urgent() {
  int ends[2];
  must(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), "socketpair");
  if (send(ends[0], "!", 1, MSG_OOB) != 1) return {};  // before Linux 5.15
  return {of_fd(ends[1], "a unix socket"), "with urgent data"};
}

sockaddr_in loopback(uint16_t port = 0) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

sockaddr_in bind_loopback(int fd) {
  sockaddr_in address = loopback();
  socklen_t size = sizeof address;
  must(bind(fd, reinterpret_cast<const sockaddr*>(&address), size), "bind");
  must(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size), "getsockname");
  return address;
}

Words udp_unread() {
  const int fd = must(socket(AF_INET, SOCK_DGRAM, 0), "socket");
  const sockaddr_in address = bind_loopback(fd);
  must(sendto(fd, "unread", 6, 0, reinterpret_cast<const sockaddr*>(&address), sizeof address), "sendto");
  return {of_fd(fd), "with datagrams that are not read yet"};
}

Words udp_multicast() {
  const int fd = must(socket(AF_INET, SOCK_DGRAM, 0), "socket");
  ip_mreq group{};
  group.imr_multiaddr.s_addr = inet_addr("224.0.0.251");
  group.imr_interface.s_addr = htonl(INADDR_LOOPBACK);
  if (setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &group, sizeof group) != 0) return {};
  return {of_fd(fd), "that has joined a multicast group"};
}

/// A listening socket; its backlog has room for one more than it says.
int listen_loopback(sockaddr_in& address) {
  const int fd = must(socket(AF_INET, SOCK_STREAM, 0), "socket");
  address = bind_loopback(fd);
  must(listen(fd, 0), "listen");
  return fd;
}

int connect_loopback(const sockaddr_in& address, int flags = 0) {
  const int fd = must(socket(AF_INET, SOCK_STREAM | flags, 0), "socket");
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 && errno != EINPROGRESS) must(-1, "connect");
  return fd;
}

Words tcp_pending() {
  sockaddr_in address;
  const int fd = listen_loopback(address);
  connect_loopback(address);
  return {of_fd(fd), "with connections that are not accepted yet"};
}

Words tcp_connecting() {
  sockaddr_in address;
  listen_loopback(address);
  connect_loopback(address);
  return {of_fd(connect_loopback(address, SOCK_NONBLOCK)), "with a connection that is being made"};
}

Words tcp_urgent() {
  sockaddr_in address;
  const int fd = listen_loopback(address), client = connect_loopback(address);
  const int accepted = must(accept(fd, nullptr, nullptr), "accept");
  must(send(client, "!", 1, MSG_OOB), "send");
  pollfd state = {accepted, POLLPRI, 0};
  must(poll(&state, 1, 20'000), "poll");
  return {of_fd(accepted), "with urgent data"};
}

Words other_socket(int domain, int type, int protocol) {
  const int fd = socket(domain, type, protocol);
  return fd < 0 ? Words{} : Words{of_fd(fd), "cannot be checkpointed"};
}

Words netlink() { return other_socket(AF_NETLINK, SOCK_RAW, NETLINK_GENERIC); }

Words netlink_unread() {
  const int fd = must(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE), "socket");
  ask_for_links(fd, 0, NLM_F_DUMP, 1);
  return {of_fd(fd, "a netlink socket"), "with messages that are not read yet"};
}

Words packet() { return other_socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL)); }
Words raw() { return other_socket(AF_INET, SOCK_RAW, IPPROTO_ICMP); }
Words vsock() { return other_socket(AF_VSOCK, SOCK_STREAM, 0); }

int pty_master() {
  const int master = must(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC), "posix_openpt");
  must(grantpt(master), "grantpt");
  must(unlockpt(master), "unlockpt");
  return master;
}

int pty_slave(int master) { return must(open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC), "the slave"); }

Words pty_outside() {
  const int master = pty_master(), slave = pty_slave(master);
  outside([&] { close(master); });
  close(slave);
  return {of_fd(master, "a pseudo-terminal"), "that process"};
}

Words pty_full() {
  const int master = pty_master(), slave = pty_slave(master);
  termios raw{};
  must(tcgetattr(slave, &raw), "tcgetattr");
  cfmakeraw(&raw);
  must(tcsetattr(slave, TCSANOW, &raw), "tcsetattr");
  must(fcntl(master, F_SETFL, O_RDWR | O_NONBLOCK), "F_SETFL");
  const std::string line(512, 'x');
  int waiting = 0;
  wait_until([&] {
    const ssize_t n = write(master, line.data(), line.size());
    ioctl(slave, FIONREAD, &waiting);
    return n < 0 && waiting >= 4095;
  }, "the terminal is full");
  return {of_process("pty"), "a pseudo-terminal with 4095 bytes or more to be read"};
}

}  // namespace

const std::vector<RefusedState>& refused_channels() {
  static const std::vector<RefusedState> states = {
      {"pipe_outside", pipe_outside},
      {"fifo_outside", fifo_outside},
      {"unix_outside", unix_outside, "no_sockets"},
      {"unix_stranger", unix_stranger, "no_sockets"},
      {"unix_sent_early", unix_sent_early},
      {"unix_urgent", unix_urgent},
      {"udp_unread", udp_unread, "no_sockets"},
      {"udp_multicast", udp_multicast},
      {"tcp_pending", tcp_pending, "no_sockets"},
      {"tcp_connecting", tcp_connecting, "no_sockets"},
      {"tcp_urgent", tcp_urgent, "no_sockets"},
      {"netlink", netlink},
      {"netlink_unread", netlink_unread},
      {"raw", raw},
      {"packet", packet},
      {"vsock", vsock},
      {"pty_outside", pty_outside},
      {"pty_full", pty_full},
  };
  return states;
}
