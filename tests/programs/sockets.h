// What the programs with sockets have in common.
#pragma once

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstddef>
#include <vector>

#include "selfcheck.h"

namespace selfcheck {

struct Ends {
  int one, other;
};

inline Ends socket_pair(int type) {
  int ends[2];
  must(socketpair(AF_UNIX, type, 0, ends), "socketpair");
  return {ends[0], ends[1]};
}

inline void send_text(int fd, const std::string& text, int flags = 0) {
  REQUIRE(send(fd, text.data(), text.size(), flags | MSG_NOSIGNAL) == static_cast<ssize_t>(text.size()), "send on %d: %s", fd,
          strerror(errno));
}

/// What one recv gives; "EAGAIN" and the like for an error, so that it can be compared.
inline std::string receive(int fd, size_t room = 1 << 20, int flags = 0) {
  std::string text(room, 0);
  const ssize_t n = recv(fd, text.data(), room, flags | MSG_DONTWAIT);
  if (n < 0) return strerrorname_np(errno);
  text.resize(n);
  return text;
}

inline void require_text(int fd, const std::string& expected, const char* what) {
  const std::string got = receive(fd);
  REQUIRE(got == expected, "%s: read '%.60s' (%zu bytes), not '%.60s' (%zu bytes)", what, got.c_str(), got.size(),
          expected.c_str(), expected.size());
}

/// A path or, with '@' first, an abstract name.
struct UnixAddress {
  sockaddr_un address = {};
  socklen_t size = 0;
  explicit UnixAddress(const std::string& name) {
    address.sun_family = AF_UNIX;
    memcpy(address.sun_path, name.data(), name.size());
    size = offsetof(sockaddr_un, sun_path) + name.size() + (name[0] == '@' ? 0 : 1);
    if (name[0] == '@') address.sun_path[0] = 0;
  }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&address); }
};

inline int unix_socket(int type, const std::string& name = "") {
  const int fd = must(socket(AF_UNIX, type, 0), "socket");
  if (name.empty()) return fd;
  const UnixAddress at(name);
  must(bind(fd, at.get(), at.size), name.c_str());
  return fd;
}

inline int connect_unix(int fd, const std::string& name) {
  const UnixAddress at(name);
  return connect(fd, at.get(), at.size);
}

/// The name that getsockname or getpeername tells, as above; "" for none, "ENOTCONN" and the like for an error.
inline std::string name_of(int fd, int (*ask)(int, sockaddr*, socklen_t*)) {
  sockaddr_un address = {};
  socklen_t size = sizeof address;
  if (ask(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) return strerrorname_np(errno);
  if (size <= offsetof(sockaddr_un, sun_path)) return "";
  std::string name(address.sun_path, size - offsetof(sockaddr_un, sun_path));
  if (name[0] == 0) return "@" + name.substr(1);
  return name.c_str();
}

inline int int_option(int fd, int name, int level = SOL_SOCKET) {
  int value = -1;
  socklen_t size = sizeof value;
  must(getsockopt(fd, level, name, &value, &size), "getsockopt");
  return value;
}

inline void set_int_option(int fd, int name, int value, int level = SOL_SOCKET) {
  must(setsockopt(fd, level, name, &value, sizeof value), "setsockopt");
}

inline short events(int fd) {
  pollfd state = {fd, POLLIN | POLLOUT | POLLRDHUP, 0};
  must(poll(&state, 1, 0), "poll");
  return state.revents;
}

}  // namespace selfcheck
