#include "engine/kinds/inet_address.h"

#include <arpa/inet.h>

#include <cstring>

#include "engine/base/error.h"

namespace ckpt {

bool InetAddress::is_any() const {
  if (family() == AF_INET6) return IN6_IS_ADDR_UNSPECIFIED(&in6().sin6_addr);
  return in().sin_addr.s_addr == INADDR_ANY;
}

std::string InetAddress::text() const {
  char name[INET6_ADDRSTRLEN] = {};
  const bool six = family() == AF_INET6;
  inet_ntop(family(), six ? static_cast<const void*>(&in6().sin6_addr) : &in().sin_addr, name, sizeof name);
  const std::string scope = six && in6().sin6_scope_id != 0 ? fmt::format(" {}", in6().sin6_scope_id) : "";
  return fmt::format("{} {}{}", name, port(), scope);
}

InetAddress InetAddress::unmapped() const {
  if (family() != AF_INET6 || !IN6_IS_ADDR_V4MAPPED(&in6().sin6_addr)) return *this;
  InetAddress four;
  four.size = sizeof(sockaddr_in);
  auto& in = reinterpret_cast<sockaddr_in&>(four.bytes);
  in.sin_family = AF_INET;
  in.sin_port = in6().sin6_port;
  std::memcpy(&in.sin_addr, in6().sin6_addr.s6_addr + 12, sizeof in.sin_addr);
  return four;
}

std::optional<InetAddress> address_of(int fd, int (*ask)(int, sockaddr*, socklen_t*) noexcept) {
  InetAddress address;
  address.size = sizeof address.bytes;
  if (ask(fd, reinterpret_cast<sockaddr*>(&address.bytes), &address.size) != 0) return std::nullopt;
  return address;
}

InetAddress parse_address(const Record& record, std::string_view field, int domain) {
  InetAddress address;
  const auto words = split_words(record.get(field));
  const auto port = words.size() >= 2 ? parse_u64(words[1]) : std::nullopt;
  const auto scope = words.size() == 3 ? parse_u64(words[2]) : std::optional<uint64_t>(0);
  bool good = words.size() >= 2 && words.size() <= 3 && port && *port <= UINT16_MAX && scope && *scope <= UINT32_MAX;
  if (good && domain == AF_INET6) {
    auto& in6 = reinterpret_cast<sockaddr_in6&>(address.bytes);
    in6.sin6_family = AF_INET6;
    in6.sin6_port = htons(static_cast<uint16_t>(*port));
    in6.sin6_scope_id = static_cast<uint32_t>(*scope);
    good = inet_pton(AF_INET6, words[0].c_str(), &in6.sin6_addr) == 1;
    address.size = sizeof in6;
  } else if (good) {
    auto& in = reinterpret_cast<sockaddr_in&>(address.bytes);
    in.sin_family = AF_INET;
    in.sin_port = htons(static_cast<uint16_t>(*port));
    good = words.size() == 2 && inet_pton(AF_INET, words[0].c_str(), &in.sin_addr) == 1;
    address.size = sizeof in;
  }
  if (!good) fail(EINVAL, "{}: {} is no address", record.where(), field);
  return address;
}

}  // namespace ckpt
