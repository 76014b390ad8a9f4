#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include "tests/unit/descriptor_fixture.h"

namespace ckpt {
namespace {

class InetSocketTest : public DescriptorTest {
 protected:
  static sockaddr_in loopback(in_port_t port = 0) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = port;
    return address;
  }
  static int bound(int type) {
    const int fd = socket(AF_INET, type, 0);
    const sockaddr_in address = loopback();
    EXPECT_EQ(bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    return fd;
  }
  static in_port_t port_of(int fd) {
    sockaddr_in address = {};
    socklen_t size = sizeof address;
    getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
    return address.sin_port;
  }
  static int connected_to(int fd, int type) {
    const int client = socket(AF_INET, type, 0);
    const sockaddr_in address = loopback(port_of(fd));
    EXPECT_EQ(connect(client, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    return client;
  }
  static void wait_readable(int fd) {
    pollfd state = {fd, POLLIN, 0};
    EXPECT_EQ(poll(&state, 1, 20'000), 1);
  }
  void expect_refusal(int fd, std::string_view why) {
    const std::string sentence = refusal({fd});
    EXPECT_NE(sentence.find(why), std::string::npos) << sentence << ", without " << why;
  }
};

TEST_F(InetSocketTest, ConnectionsAreLostWhereThatIsAllowed) {
  const int listening = bound(SOCK_STREAM);
  ASSERT_EQ(listen(listening, 5), 0);
  const int client = connected_to(listening, SOCK_STREAM);
  EXPECT_EQ(refusal({client}), "");
  wait_readable(listening);
  expect_refusal(listening, "a TCP socket (socket:[");
  expect_refusal(listening, "with connections that are not accepted yet");
  no_sockets_ = true;
  capture({listening, client});
  const in_port_t port = port_of(listening);
  close(client);
  close(listening);
  restore();
  EXPECT_EQ(port_of(listening), port);
  char c = 0;
  EXPECT_EQ(read(client, &c, 1), -1);
  EXPECT_EQ(errno, ENOTCONN);
  pollfd state = {listening, POLLIN, 0};
  EXPECT_EQ(poll(&state, 1, 0), 0);
  close(client);
  close(listening);
}

TEST_F(InetSocketTest, WhatCannotBeKeptOfAConnectionRefuses) {
  const int listening = bound(SOCK_STREAM);
  ASSERT_EQ(listen(listening, 1), 0);
  const int client = connected_to(listening, SOCK_STREAM), server = accept(listening, nullptr, nullptr);
  EXPECT_EQ(refusal({client, server}), "");
  ASSERT_EQ(send(client, "!", 1, MSG_OOB), 1);
  pollfd urgent = {server, POLLPRI, 0};
  EXPECT_EQ(poll(&urgent, 1, 20'000), 1);
  const std::string port = std::to_string(ntohs(port_of(client)));
  expect_refusal(server, "connected to 127.0.0.1 " + port + ") with urgent data cannot be checkpointed");
  const linger at_once = {1, 0};
  setsockopt(client, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  close(client);  // by a reset
  pollfd reset = {server, POLLERR, 0};
  EXPECT_EQ(poll(&reset, 1, 20'000), 1);
  expect_refusal(server, "with an error that is not read yet");
  // The backlog has room for two.
  const int first = connected_to(listening, SOCK_STREAM), second = connected_to(listening, SOCK_STREAM);
  const int third = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  const sockaddr_in address = loopback(port_of(listening));
  EXPECT_EQ(connect(third, reinterpret_cast<const sockaddr*>(&address), sizeof address), -1);
  expect_refusal(third, "with a connection that is being made");
  for (const int fd : {server, first, second, third, listening}) close(fd);
}

TEST_F(InetSocketTest, ForgedConnectionsAreRefused) {
  const int listening = bound(SOCK_STREAM);
  ASSERT_EQ(listen(listening, 1), 0);
  const int client = connected_to(listening, SOCK_STREAM), server = accept(listening, nullptr, nullptr);
  ASSERT_EQ(send(server, "here", 4, 0), 4);
  wait_readable(client);
  capture({client});
  const std::string object = record(client).substr(record(client).find("inet-"));
  const std::string path = "objects/" + object.substr(0, object.find('\n')), good = image_.content(path);
  EXPECT_EQ(image_.content(path + ".received"), "here");
  const auto refused = [&](std::string_view from, std::string_view to) {
    image_.content(path) = good;
    image_.replace(path, from, to);
    EXPECT_EQ(restore_error().err(), EINVAL) << from << " -> " << to;
  };
  refused("sequence ", "sequence 4294967296 ");
  refused("window ", "unsent 1\nwindow ");
  refused("window ", "fin never\nwindow ");
  refused("segment ", "segment 65536\nsegment ");
  refused("scale ", "scale 15 1\nscale ");
  refused("window ", "held filter\nwindow ");
  refused("window ", "window 1 ");
  // In use: as long as the connection lives.
  image_.content(path) = good;
  EXPECT_EQ(restore_error().err(), EADDRNOTAVAIL);
  for (const int fd : {client, server, listening}) close(fd);
}

TEST_F(InetSocketTest, WhatIsNotReadYetRefuses) {
  const int receiver = bound(SOCK_DGRAM), sender = connected_to(receiver, SOCK_DGRAM);
  EXPECT_EQ(refusal({receiver, sender}), "");
  ASSERT_EQ(write(sender, "x", 1), 1);
  wait_readable(receiver);
  expect_refusal(receiver, "a UDP socket (socket:[");
  expect_refusal(receiver, "with datagrams that are not read yet");
  close(receiver);
  ASSERT_EQ(write(sender, "x", 1), 1);  // refused by ICMP
  wait_readable(sender);
  expect_refusal(sender, "with an error that is not read yet");
  int error = 0;
  socklen_t size = sizeof error;
  EXPECT_EQ(getsockopt(sender, SOL_SOCKET, SO_ERROR, &error, &size), 0);
  EXPECT_EQ(error, ECONNREFUSED) << "the look has taken it";
  close(sender);
}

TEST_F(InetSocketTest, MulticastRefuses) {
  const int member = socket(AF_INET, SOCK_DGRAM, 0);
  ip_mreqn request = {};
  request.imr_multiaddr.s_addr = inet_addr("239.1.2.3");
  request.imr_ifindex = 1;  // the loopback device
  if (setsockopt(member, IPPROTO_IP, IP_ADD_MEMBERSHIP, &request, sizeof request) != 0) GTEST_SKIP() << strerror(errno);
  const int other = socket(AF_INET, SOCK_DGRAM, 0);
  expect_refusal(member, "that has joined a multicast group");
  EXPECT_EQ(refusal({other}), "");
  close(member);
  close(other);
}

TEST_F(InetSocketTest, APortInUseIsNamed) {
  for (const int type : {SOCK_DGRAM, SOCK_STREAM}) {
    const int fd = bound(type);
    if (type == SOCK_STREAM) {
      ASSERT_EQ(listen(fd, 1), 0);
    }
    const std::string port = std::to_string(ntohs(port_of(fd)));
    capture({fd});
    const Error error = restore_error();
    EXPECT_EQ(error.err(), EADDRINUSE);
    EXPECT_NE(error.sentence().find("127.0.0.1 " + port), std::string::npos) << error.sentence();
    close(fd);
    image_.remove("fds/" + std::to_string(fd));
  }
}

TEST_F(InetSocketTest, ForgedOnesAreRefused) {
  const int fd = bound(SOCK_DGRAM);
  capture({fd});
  const std::string object = record(fd).substr(record(fd).find("inet-"));
  const std::string path = "objects/" + object.substr(0, object.find('\n')), good = image_.content(path);
  close(fd);
  const auto refused = [&](std::string_view from, std::string_view to) {
    image_.content(path) = good;
    image_.replace(path, from, to);
    EXPECT_EQ(restore_error().err(), EINVAL) << from << " -> " << to;
  };
  refused("domain inet", "domain unix");
  refused("socket udp", "socket sctp");
  refused("state unconnected", "state listening");
  refused("local 127.0.0.1 ", "local ::1 ");
  refused("local 127.0.0.1 ", "local 127.0.0.1 1 2 ");
  refused("local 127.0.0.1 ", "local 127.0.0.1 7777777");
  refused("user ", "user 4294967295 ");
  refused("user ", "ip TOS x\nuser ");
}

}  // namespace
}  // namespace ckpt
