// What the programs with internet sockets have in common.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include "sockets.h"

namespace selfcheck {

inline sockaddr_in loopback(in_port_t port = 0) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = port;
  return address;
}

inline sockaddr_in6 loopback6(in_port_t port = 0) {
  sockaddr_in6 address = {};
  address.sin6_family = AF_INET6;
  address.sin6_addr = in6addr_loopback;
  address.sin6_port = port;
  return address;
}

template <typename T>
T address_of(int fd, int (*ask)(int, sockaddr*, socklen_t*) noexcept) {
  T address = {};
  socklen_t size = sizeof address;
  must(ask(fd, reinterpret_cast<sockaddr*>(&address), &size), "the address of a socket");
  return address;
}

template <typename T>
void bind_to(int fd, const T& address) {
  must(bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address), "bind");
}

template <typename T>
void connect_to(int fd, const T& address) {
  must(connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address), "connect");
}

inline void wait_readable(int fd) {
  pollfd state = {fd, POLLIN, 0};
  poll(&state, 1, 50'000);
}

inline tcp_info tcp_info_of(int fd) {
  tcp_info info = {};
  socklen_t size = sizeof info;
  must(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size), "TCP_INFO");
  return info;
}

/// A listening socket at an address whose port the kernel chooses.
template <typename T>
int listen_at(const T& address, int backlog = 16) {
  const int fd = must(socket(reinterpret_cast<const sockaddr&>(address).sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
  bind_to(fd, address);
  must(listen(fd, backlog), "listen");
  return fd;
}

/// A connection to it, of which the other end is accepted.
template <typename T>
Ends connection_to(int listening, const T& address) {
  const int client = must(socket(reinterpret_cast<const sockaddr&>(address).sa_family, SOCK_STREAM, 0), "socket");
  connect_to(client, address);
  wait_readable(listening);
  return {client, must(accept(listening, nullptr, nullptr), "accept")};
}

/// Writes without blocking, the pattern of `seed`, until nothing more is taken; how much it was.
inline size_t fill_connection(int fd, uint64_t seed) {
  const std::string text = filled_text(64 << 10, seed);
  size_t size = 0;
  for (size_t turn = 0; turn < 4096; ++turn) {
    const size_t at = size % text.size();
    const ssize_t n = send(fd, text.data() + at, text.size() - at, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno == EAGAIN) return size;
    size += static_cast<size_t>(must(n, "send"));
  }
  failed("a connection takes everything");
}

/// Reads so much of that pattern.
inline void require_content(int fd, size_t size, uint64_t seed, const char* what) {
  const std::string text = filled_text(64 << 10, seed);
  std::string piece(text.size(), 0);
  for (size_t done = 0; done < size;) {
    const size_t at = done % text.size(), wanted = std::min(text.size() - at, size - done);
    wait_readable(fd);
    const ssize_t n = recv(fd, piece.data(), wanted, MSG_DONTWAIT);
    REQUIRE(n > 0, "%s: %zd after %zu of %zu bytes: %s", what, n, done, size, n < 0 ? strerror(errno) : "the end");
    REQUIRE(memcmp(piece.data(), text.data() + at, static_cast<size_t>(n)) == 0, "%s: wrong content after %zu bytes", what, done);
    done += static_cast<size_t>(n);
  }
}

/// Waits for exactly this.
inline void await_text(int fd, const std::string& expected, const char* what) {
  std::string got;
  while (got.size() < expected.size()) {
    wait_readable(fd);
    const std::string piece = receive(fd, expected.size() - got.size());
    if (piece.empty() || piece == "EAGAIN" || piece == "ECONNRESET") failed("%s: '%s' and then '%s'", what, got.c_str(), piece.c_str());
    got += piece;
  }
  REQUIRE(got == expected, "%s: read '%.60s', not '%.60s'", what, got.c_str(), expected.c_str());
}

inline void await_end(int fd, const char* what) {
  wait_readable(fd);
  const std::string got = receive(fd);
  REQUIRE(got.empty(), "%s: '%.60s' instead of the end", what, got.c_str());
}

}  // namespace selfcheck
