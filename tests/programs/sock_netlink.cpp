// Netlink sockets without a state: their ports, groups, options and peers, of routing, of the socket monitor and of device
// events; and the kernel answers them.
#include "inet.h"
#include "netlink.h"

namespace {

// Groups in which nothing happens by itself.
constexpr int kGroups[] = {RTNLGRP_MDB, RTNLGRP_NEXTHOP};

uint32_t port_of(int fd) { return address_of<sockaddr_nl>(fd, getsockname).nl_pid; }

void require_groups(int fd, std::initializer_list<int> groups) {
  uint32_t expected[4] = {}, bits[4] = {};
  for (const int group : groups) expected[(group - 1) / 32] |= 1u << (group - 1) % 32;
  socklen_t size = sizeof bits;
  must(getsockopt(fd, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, bits, &size), "NETLINK_LIST_MEMBERSHIPS");
  REQUIRE(memcmp(bits, expected, sizeof bits) == 0, "the groups are %x %x, not %x %x", bits[0], bits[1], expected[0], expected[1]);
}

/// Asks for the first network interface.
void require_answer(int fd) {
  ask_for_links(fd, 1, 0, 77);
  wait_readable(fd);
  alignas(nlmsghdr) char answer[16384];
  const ssize_t n = must(recv(fd, answer, sizeof answer, 0), "recv");
  const auto* header = reinterpret_cast<const nlmsghdr*>(answer);
  REQUIRE(n >= static_cast<ssize_t>(sizeof *header) && header->nlmsg_type == RTM_NEWLINK && header->nlmsg_seq == 77 &&
              header->nlmsg_pid == port_of(fd),
          "the answer is of type %d to %u", header->nlmsg_type, header->nlmsg_pid);
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  const int fresh = must(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE), "socket");
  const int bound = must(socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, NETLINK_ROUTE), "socket");
  const int second = must(socket(AF_NETLINK, SOCK_DGRAM, NETLINK_ROUTE), "socket");
  const int monitor = must(socket(AF_NETLINK, SOCK_DGRAM, NETLINK_SOCK_DIAG), "socket");
  const int events = must(socket(AF_NETLINK, SOCK_DGRAM, NETLINK_KOBJECT_UEVENT), "socket");
  sockaddr_nl any = {};
  any.nl_family = AF_NETLINK;
  for (const int fd : {bound, second, events}) bind_to(fd, any);
  for (const int group : kGroups) set_int_option(bound, NETLINK_ADD_MEMBERSHIP, group, SOL_NETLINK);
  set_int_option(bound, NETLINK_CAP_ACK, 1, SOL_NETLINK);
  set_int_option(bound, SO_RCVBUF, 50'000, SOL_SOCKET);
  connect_to(second, any);
  const uint32_t ports[] = {port_of(bound), port_of(second), port_of(events)};
  const int size = int_option(bound, SO_RCVBUF, SOL_SOCKET), same = must(dup(bound), "dup");
  require_answer(second);
  ready();
  wait_for_go();

  REQUIRE(port_of(bound) == ports[0] && port_of(second) == ports[1] && port_of(events) == ports[2],
          "the ports are %u %u %u, not %u %u %u", port_of(bound), port_of(second), port_of(events), ports[0], ports[1], ports[2]);
  REQUIRE(port_of(fresh) == 0 && port_of(monitor) == 0, "one has a port now");
  require_groups(bound, {kGroups[0], kGroups[1]});
  require_groups(second, {});
  REQUIRE(int_option(bound, NETLINK_CAP_ACK, SOL_NETLINK) == 1, "NETLINK_CAP_ACK is off");
  REQUIRE(int_option(second, NETLINK_CAP_ACK, SOL_NETLINK) == 0, "NETLINK_CAP_ACK is on");
  REQUIRE(int_option(bound, SO_RCVBUF, SOL_SOCKET) == size, "SO_RCVBUF is not %d", size);
  REQUIRE((fcntl(bound, F_GETFL) & O_NONBLOCK) != 0 && fcntl(bound, F_GETFD) == FD_CLOEXEC, "flags");
  for (const int fd : {fresh, bound, second, same}) require_answer(fd);
  REQUIRE(port_of(fresh) != 0, "a port is given with the first message");
  REQUIRE(int_option(monitor, SO_PROTOCOL, SOL_SOCKET) == NETLINK_SOCK_DIAG && int_option(monitor, SO_TYPE, SOL_SOCKET) == SOCK_DGRAM,
          "the socket monitor's is another one");
  REQUIRE(int_option(events, SO_PROTOCOL, SOL_SOCKET) == NETLINK_KOBJECT_UEVENT, "that of device events is another one");
  return passed();
}
