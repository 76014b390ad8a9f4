#include "engine/kinds/tcp_segment.h"

#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/tcp.h>

#include <cstring>
#include <span>
#include <vector>

#include "engine/base/error.h"
#include "engine/base/fd.h"

namespace ckpt {

namespace {

constexpr uint8_t kHops = 64;
constexpr int kIpv6HeaderIncluded = 36;          // IPV6_HDRINCL, linux/in6.h

/// The sum of RFC 1071, not folded yet.
uint32_t sum_of(std::span<const std::byte> bytes) {
  uint32_t sum = 0;
  for (size_t i = 0; i + 1 < bytes.size(); i += 2) {
    sum += static_cast<uint32_t>(bytes[i]) << 8 | static_cast<uint32_t>(bytes[i + 1]);
  }
  return sum;
}

template <typename T>
uint32_t sum_of_object(const T& object) {
  static_assert(sizeof object % 2 == 0);
  return sum_of(std::as_bytes(std::span<const T, 1>(&object, 1)));
}

uint16_t checksum(uint32_t sum) {
  while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
  return htons(static_cast<uint16_t>(~sum));
}

template <typename Header>
std::vector<std::byte> joined(const Header& header, const tcphdr& tcp) {
  std::vector<std::byte> packet(sizeof header + sizeof tcp);
  std::memcpy(packet.data(), &header, sizeof header);
  std::memcpy(packet.data() + sizeof header, &tcp, sizeof tcp);
  return packet;
}

void send_packet(const std::vector<std::byte>& packet, InetAddress to) {
  const int domain = to.family();
  const UniqueFd fd(::socket(domain, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW));
  if (!fd) fail_errno("a raw socket");
  const int yes = 1;
  const bool six = domain == AF_INET6;
  if (setsockopt(fd.get(), six ? IPPROTO_IPV6 : IPPROTO_IP, six ? kIpv6HeaderIncluded : IP_HDRINCL, &yes, sizeof yes) != 0) {
    fail_errno("a raw socket: IP_HDRINCL");
  }
  // A raw socket's port is a protocol.
  if (six) reinterpret_cast<sockaddr_in6&>(to.bytes).sin6_port = 0;
  if (::sendto(fd.get(), packet.data(), packet.size(), 0, to.get(), to.size) < 0) fail_errno("a packet to {}", to.text());
}

}  // namespace

void deliver_fin(const InetAddress& from, const InetAddress& to, uint32_t sequence, uint32_t acknowledged, uint16_t window) {
  tcphdr tcp = {};
  tcp.source = htons(from.port());
  tcp.dest = htons(to.port());
  tcp.seq = htonl(sequence);
  tcp.ack_seq = htonl(acknowledged);
  tcp.doff = sizeof tcp / 4;
  tcp.fin = tcp.ack = 1;
  tcp.window = htons(window);
  const uint32_t rest = IPPROTO_TCP + sizeof tcp;  // of the pseudo header
  if (to.family() == AF_INET6) {
    ip6_hdr ip = {};
    ip.ip6_flow = htonl(6u << 28);
    ip.ip6_plen = htons(sizeof tcp);
    ip.ip6_nxt = IPPROTO_TCP;
    ip.ip6_hlim = kHops;
    ip.ip6_src = from.in6().sin6_addr;
    ip.ip6_dst = to.in6().sin6_addr;
    tcp.check = checksum(sum_of_object(ip.ip6_src) + sum_of_object(ip.ip6_dst) + rest + sum_of_object(tcp));
    return send_packet(joined(ip, tcp), to);
  }
  iphdr ip = {};  // the kernel fills in what is 0 (raw(7))
  ip.version = 4;
  ip.ihl = sizeof ip / 4;
  ip.ttl = kHops;
  ip.protocol = IPPROTO_TCP;
  ip.saddr = from.in().sin_addr.s_addr;
  ip.daddr = to.in().sin_addr.s_addr;
  tcp.check = checksum(sum_of_object(ip.saddr) + sum_of_object(ip.daddr) + rest + sum_of_object(tcp));
  send_packet(joined(ip, tcp), to);
}

}  // namespace ckpt
