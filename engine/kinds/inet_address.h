// An address and a port of an internet socket: "127.0.0.1 80", "fe80::1 80 2" with the number of the device.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <optional>
#include <string>
#include <string_view>

#include "engine/base/record.h"

namespace ckpt {

struct InetAddress {
  sockaddr_storage bytes = {};
  socklen_t size = 0;

  int family() const { return bytes.ss_family; }
  const sockaddr_in& in() const { return reinterpret_cast<const sockaddr_in&>(bytes); }
  const sockaddr_in6& in6() const { return reinterpret_cast<const sockaddr_in6&>(bytes); }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&bytes); }
  uint16_t port() const { return ntohs(family() == AF_INET6 ? in6().sin6_port : in().sin_port); }
  bool is_any() const;
  /// As it stands in an image.
  std::string text() const;
  /// An IPv4 address in an IPv6 socket (::ffff:127.0.0.1) as what goes over the wire; every other as it is.
  InetAddress unmapped() const;
};

/// getsockname(2) or getpeername(2); nothing where there is none.
std::optional<InetAddress> address_of(int fd, int (*ask)(int, sockaddr*, socklen_t*) noexcept);

/// A field of an image, of the family `domain`. Throws Error(EINVAL).
InetAddress parse_address(const Record& record, std::string_view field, int domain);

}  // namespace ckpt
