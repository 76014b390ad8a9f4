#include "engine/kinds/inet_options.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <array>
#include <cstring>

#include "engine/base/error.h"
#include "engine/base/fd.h"
#include "engine/kinds/socket_options.h"

namespace ckpt {

namespace {

struct NamedOption {
  const char* level_name;
  const char* name;
  int level, number;
};

constexpr int kUdpLite = IPPROTO_UDPLITE;

// include/uapi/linux/in.h, in6.h, tcp.h, udp.h; numbers where Debian 12's headers have no name yet.
constexpr std::array kOptions = {
    NamedOption{"ip", "TOS", IPPROTO_IP, IP_TOS},
    NamedOption{"ip", "TTL", IPPROTO_IP, IP_TTL},
    NamedOption{"ip", "RECVOPTS", IPPROTO_IP, IP_RECVOPTS},
    NamedOption{"ip", "RETOPTS", IPPROTO_IP, IP_RETOPTS},
    NamedOption{"ip", "PKTINFO", IPPROTO_IP, IP_PKTINFO},
    NamedOption{"ip", "MTU_DISCOVER", IPPROTO_IP, IP_MTU_DISCOVER},
    NamedOption{"ip", "RECVERR", IPPROTO_IP, IP_RECVERR},
    NamedOption{"ip", "RECVTTL", IPPROTO_IP, IP_RECVTTL},
    NamedOption{"ip", "RECVTOS", IPPROTO_IP, IP_RECVTOS},
    NamedOption{"ip", "FREEBIND", IPPROTO_IP, IP_FREEBIND},
    NamedOption{"ip", "PASSSEC", IPPROTO_IP, IP_PASSSEC},
    NamedOption{"ip", "TRANSPARENT", IPPROTO_IP, IP_TRANSPARENT},
    NamedOption{"ip", "RECVORIGDSTADDR", IPPROTO_IP, IP_RECVORIGDSTADDR},
    NamedOption{"ip", "MINTTL", IPPROTO_IP, IP_MINTTL},
    NamedOption{"ip", "CHECKSUM", IPPROTO_IP, 23},
    NamedOption{"ip", "BIND_ADDRESS_NO_PORT", IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT},
    NamedOption{"ip", "RECVFRAGSIZE", IPPROTO_IP, 25},
    NamedOption{"ip", "RECVERR_RFC4884", IPPROTO_IP, 26},
    NamedOption{"ip", "MULTICAST_IF", IPPROTO_IP, IP_MULTICAST_IF},
    NamedOption{"ip", "MULTICAST_TTL", IPPROTO_IP, IP_MULTICAST_TTL},
    NamedOption{"ip", "MULTICAST_LOOP", IPPROTO_IP, IP_MULTICAST_LOOP},
    NamedOption{"ip", "MULTICAST_ALL", IPPROTO_IP, IP_MULTICAST_ALL},
    NamedOption{"ip", "UNICAST_IF", IPPROTO_IP, IP_UNICAST_IF},
    NamedOption{"ip", "LOCAL_PORT_RANGE", IPPROTO_IP, 51},
    NamedOption{"ipv6", "V6ONLY", IPPROTO_IPV6, IPV6_V6ONLY},
    NamedOption{"ipv6", "UNICAST_HOPS", IPPROTO_IPV6, IPV6_UNICAST_HOPS},
    NamedOption{"ipv6", "MULTICAST_IF", IPPROTO_IPV6, IPV6_MULTICAST_IF},
    NamedOption{"ipv6", "MULTICAST_HOPS", IPPROTO_IPV6, IPV6_MULTICAST_HOPS},
    NamedOption{"ipv6", "MULTICAST_LOOP", IPPROTO_IPV6, IPV6_MULTICAST_LOOP},
    NamedOption{"ipv6", "MULTICAST_ALL", IPPROTO_IPV6, 29},
    NamedOption{"ipv6", "RECVPKTINFO", IPPROTO_IPV6, IPV6_RECVPKTINFO},
    NamedOption{"ipv6", "2292PKTINFO", IPPROTO_IPV6, 2},
    NamedOption{"ipv6", "2292HOPOPTS", IPPROTO_IPV6, 3},
    NamedOption{"ipv6", "2292DSTOPTS", IPPROTO_IPV6, 4},
    NamedOption{"ipv6", "2292RTHDR", IPPROTO_IPV6, 5},
    NamedOption{"ipv6", "2292HOPLIMIT", IPPROTO_IPV6, 8},
    NamedOption{"ipv6", "ROUTER_ALERT_ISOLATE", IPPROTO_IPV6, 30},
    NamedOption{"ipv6", "RECVHOPLIMIT", IPPROTO_IPV6, IPV6_RECVHOPLIMIT},
    NamedOption{"ipv6", "RECVRTHDR", IPPROTO_IPV6, IPV6_RECVRTHDR},
    NamedOption{"ipv6", "RECVHOPOPTS", IPPROTO_IPV6, IPV6_RECVHOPOPTS},
    NamedOption{"ipv6", "RECVDSTOPTS", IPPROTO_IPV6, IPV6_RECVDSTOPTS},
    NamedOption{"ipv6", "RECVTCLASS", IPPROTO_IPV6, IPV6_RECVTCLASS},
    NamedOption{"ipv6", "RECVPATHMTU", IPPROTO_IPV6, IPV6_RECVPATHMTU},
    NamedOption{"ipv6", "TCLASS", IPPROTO_IPV6, IPV6_TCLASS},
    NamedOption{"ipv6", "AUTOFLOWLABEL", IPPROTO_IPV6, 70},
    NamedOption{"ipv6", "MTU_DISCOVER", IPPROTO_IPV6, IPV6_MTU_DISCOVER},
    NamedOption{"ipv6", "RECVERR", IPPROTO_IPV6, IPV6_RECVERR},
    NamedOption{"ipv6", "FREEBIND", IPPROTO_IPV6, 78},
    NamedOption{"ipv6", "TRANSPARENT", IPPROTO_IPV6, IPV6_TRANSPARENT},
    NamedOption{"ipv6", "RECVORIGDSTADDR", IPPROTO_IPV6, 74},
    NamedOption{"ipv6", "MINHOPCOUNT", IPPROTO_IPV6, 73},
    NamedOption{"ipv6", "DONTFRAG", IPPROTO_IPV6, IPV6_DONTFRAG},
    NamedOption{"ipv6", "FLOWINFO", IPPROTO_IPV6, 11},
    NamedOption{"ipv6", "FLOWINFO_SEND", IPPROTO_IPV6, 33},
    NamedOption{"ipv6", "ADDR_PREFERENCES", IPPROTO_IPV6, 72},
    NamedOption{"ipv6", "UNICAST_IF", IPPROTO_IPV6, 76},
    NamedOption{"ipv6", "RECVFRAGSIZE", IPPROTO_IPV6, 77},
    NamedOption{"ipv6", "RECVERR_RFC4884", IPPROTO_IPV6, 31},
    NamedOption{"tcp", "NODELAY", IPPROTO_TCP, TCP_NODELAY},
    NamedOption{"tcp", "MAXSEG", IPPROTO_TCP, TCP_MAXSEG},
    NamedOption{"tcp", "CORK", IPPROTO_TCP, TCP_CORK},
    NamedOption{"tcp", "KEEPIDLE", IPPROTO_TCP, TCP_KEEPIDLE},
    NamedOption{"tcp", "KEEPINTVL", IPPROTO_TCP, TCP_KEEPINTVL},
    NamedOption{"tcp", "KEEPCNT", IPPROTO_TCP, TCP_KEEPCNT},
    NamedOption{"tcp", "SYNCNT", IPPROTO_TCP, TCP_SYNCNT},
    NamedOption{"tcp", "LINGER2", IPPROTO_TCP, TCP_LINGER2},
    NamedOption{"tcp", "DEFER_ACCEPT", IPPROTO_TCP, TCP_DEFER_ACCEPT},
    NamedOption{"tcp", "WINDOW_CLAMP", IPPROTO_TCP, TCP_WINDOW_CLAMP},
    NamedOption{"tcp", "THIN_LINEAR_TIMEOUTS", IPPROTO_TCP, 16},
    NamedOption{"tcp", "USER_TIMEOUT", IPPROTO_TCP, TCP_USER_TIMEOUT},
    NamedOption{"tcp", "FASTOPEN", IPPROTO_TCP, TCP_FASTOPEN},
    NamedOption{"tcp", "NOTSENT_LOWAT", IPPROTO_TCP, TCP_NOTSENT_LOWAT},
    NamedOption{"tcp", "SAVE_SYN", IPPROTO_TCP, TCP_SAVE_SYN},
    NamedOption{"tcp", "FASTOPEN_CONNECT", IPPROTO_TCP, 30},
    NamedOption{"tcp", "FASTOPEN_NO_COOKIE", IPPROTO_TCP, 34},
    NamedOption{"tcp", "INQ", IPPROTO_TCP, 36},
    NamedOption{"tcp", "TX_DELAY", IPPROTO_TCP, 37},
    NamedOption{"tcp", "RTO_MAX_MS", IPPROTO_TCP, 44},
    NamedOption{"tcp", "RTO_MIN_US", IPPROTO_TCP, 45},
    NamedOption{"tcp", "DELACK_MAX_US", IPPROTO_TCP, 46},
    NamedOption{"udp", "CORK", IPPROTO_UDP, 1},
    NamedOption{"udp", "ENCAP", IPPROTO_UDP, 100},
    NamedOption{"udp", "NO_CHECK6_TX", IPPROTO_UDP, 101},
    NamedOption{"udp", "NO_CHECK6_RX", IPPROTO_UDP, 102},
    NamedOption{"udp", "SEGMENT", IPPROTO_UDP, 103},
    NamedOption{"udp", "GRO", IPPROTO_UDP, 104},
    NamedOption{"udplite", "SEND_CSCOV", kUdpLite, 10},
    NamedOption{"udplite", "RECV_CSCOV", kUdpLite, 11},
};
constexpr size_t kMaxCongestion = 16;            // TCP_CA_NAME_MAX

std::string congestion_of(int fd) {
  char name[kMaxCongestion + 1] = {};
  socklen_t size = kMaxCongestion;
  return getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &size) == 0 ? name : "";
}

/// Whether the socket is in one group on one device.
bool is_member(int fd, int level, unsigned device, const void* address, socklen_t size) {
  group_filter filter = {};
  filter.gf_interface = device;
  std::memcpy(&filter.gf_group, address, size);
  socklen_t length = sizeof filter;
  return getsockopt(fd, level, MCAST_MSFILTER, &filter, &length) == 0;
}

std::string own_network_file(const char* name) {
  try {
    return read_file(std::string("/proc/self/net/") + name);
  } catch (const Error&) {
    return "";  // a kernel without it has no such groups
  }
}

/// Lines "2 eth0 : 1 V3" of a device, each followed by lines "\t\t\t\t010000E0 1 ..." of its groups: the address in hex as
/// it stands in memory (igmp_mc_seq_show() in net/ipv4/igmp.c).
bool in_ipv4_group(int fd) {
  unsigned device = 0;
  const std::string text = own_network_file("igmp");
  for (size_t at = text.find('\n'); at != std::string::npos && at + 1 < text.size(); at = text.find('\n', at + 1)) {
    const size_t begin = at + 1;
    const auto words = split_words(std::string_view(text).substr(begin, text.find('\n', begin) - begin));
    if (words.empty()) continue;
    if (text[begin] != '\t') {
      device = static_cast<unsigned>(parse_u64(words[0]).value_or(0));
      continue;
    }
    sockaddr_in group = {};
    group.sin_family = AF_INET;
    group.sin_addr.s_addr = static_cast<in_addr_t>(parse_u64("0x" + words[0]).value_or(0));
    if (is_member(fd, IPPROTO_IP, device, &group, sizeof group)) return true;
  }
  return false;
}

/// Lines "2 eth0 ff020000000000000000000000000001 1 ..." (igmp6_mc_seq_show() in net/ipv6/mcast.c).
bool in_ipv6_group(int fd) {
  const std::string text = own_network_file("igmp6");
  for (size_t begin = 0; begin < text.size(); begin = std::min(text.find('\n', begin), text.size() - 1) + 1) {
    const auto words = split_words(std::string_view(text).substr(begin, text.find('\n', begin) - begin));
    if (words.size() < 3 || words[2].size() != 2 * sizeof(in6_addr)) continue;
    sockaddr_in6 group = {};
    group.sin6_family = AF_INET6;
    for (size_t i = 0; i < sizeof(in6_addr); ++i) {
      group.sin6_addr.s6_addr[i] = static_cast<uint8_t>(parse_u64("0x" + words[2].substr(2 * i, 2)).value_or(0));
    }
    const auto device = static_cast<unsigned>(parse_u64(words[0]).value_or(0));
    if (is_member(fd, IPPROTO_IPV6, device, &group, sizeof group)) return true;
  }
  return false;
}

}  // namespace

void capture_inet_options(int fd, int fresh, bool had_connection, Record& out) {
  const bool stream = socket_option(fd, SOL_SOCKET, SO_TYPE) == SOCK_STREAM;
  for (const NamedOption& option : kOptions) {
    if (had_connection && option.level == IPPROTO_TCP && option.number == TCP_MAXSEG) continue;
    // Of one that was accepted they tell of the first packet (tcp_v4_syn_recv_sock()); nobody can set them.
    if (stream && std::string_view(option.name).starts_with("MULTICAST_")) continue;
    const auto now = socket_option(fd, option.level, option.number);
    if (!now || now == socket_option(fresh, option.level, option.number)) continue;
    out.add(option.level_name, fmt::format("{} {}", option.name, *now));
  }
  const std::string congestion = congestion_of(fd);
  if (congestion != congestion_of(fresh)) out.add("congestion", congestion);
}

void restore_inet_options(int fd, const Record& record) {
  for (const NamedOption& option : kOptions) {
    for (const std::string& text : record.all(option.level_name)) {
      const auto words = split_words(text);
      if (words.empty() || words[0] != option.name) continue;
      const auto value = words.size() == 2 ? parse_i64(words[1]) : std::nullopt;
      if (!value || *value > INT32_MAX || *value < INT32_MIN) {
        fail(EINVAL, "{}: {} '{}' is malformed", record.where(), option.level_name, escape(text));
      }
      const int number = static_cast<int>(*value);
      if (setsockopt(fd, option.level, option.number, &number, sizeof number) != 0) {
        fail_errno("{}: setting the option {} {}", record.where(), option.level_name, option.name);
      }
    }
  }
  const auto congestion = record.find("congestion");
  if (!congestion) return;
  if (setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, congestion->data(), static_cast<socklen_t>(congestion->size())) != 0) {
    fail_errno("{}: congestion control '{}'", record.where(), escape(*congestion));
  }
}

bool has_joined_multicast(int fd) { return in_ipv4_group(fd) || in_ipv6_group(fd); }

}  // namespace ckpt
