#include "engine/kinds/inet_socket.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstring>

#include "engine/base/error.h"
#include "engine/kinds/fd_flags.h"
#include "engine/kinds/inet_options.h"
#include "engine/kinds/pipe.h"
#include "engine/kinds/socket_options.h"

namespace ckpt {

namespace {

struct Protocol {
  const char* name;
  int type, number;
};
constexpr std::array kProtocols = {Protocol{"tcp", SOCK_STREAM, IPPROTO_TCP}, Protocol{"udp", SOCK_DGRAM, IPPROTO_UDP},
                                   Protocol{"udplite", SOCK_DGRAM, IPPROTO_UDPLITE}};

struct Address {
  sockaddr_storage bytes = {};
  socklen_t size = 0;
  int family() const { return bytes.ss_family; }
  const sockaddr_in& in() const { return reinterpret_cast<const sockaddr_in&>(bytes); }
  const sockaddr_in6& in6() const { return reinterpret_cast<const sockaddr_in6&>(bytes); }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&bytes); }

  uint16_t port() const { return ntohs(family() == AF_INET6 ? in6().sin6_port : in().sin_port); }
  bool is_any() const {
    if (family() == AF_INET6) return IN6_IS_ADDR_UNSPECIFIED(&in6().sin6_addr);
    return in().sin_addr.s_addr == INADDR_ANY;
  }
  std::string text() const {
    char name[INET6_ADDRSTRLEN] = {};
    const bool six = family() == AF_INET6;
    inet_ntop(family(), six ? static_cast<const void*>(&in6().sin6_addr) : &in().sin_addr, name, sizeof name);
    const std::string scope = six && in6().sin6_scope_id != 0 ? fmt::format(" {}", in6().sin6_scope_id) : "";
    return fmt::format("{} {}{}", name, port(), scope);
  }
};

std::optional<Address> address_of(int fd, int (*ask)(int, sockaddr*, socklen_t*) noexcept) {
  Address address;
  address.size = sizeof address.bytes;
  if (ask(fd, reinterpret_cast<sockaddr*>(&address.bytes), &address.size) != 0) return std::nullopt;
  return address;
}

Address parse_address(const Record& record, std::string_view field, int domain) {
  Address address;
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

int option_of(int fd, int name) { return socket_option(fd, SOL_SOCKET, name).value_or(-1); }

bool is_inet(int fd) {
  const int domain = option_of(fd, SO_DOMAIN);
  return domain == AF_INET || domain == AF_INET6;
}

/// Null for one that this kind does not know.
const Protocol* protocol_of(int fd) {
  if (!is_inet(fd)) return nullptr;
  for (const Protocol& protocol : kProtocols) {
    if (protocol.number == option_of(fd, SO_PROTOCOL) && protocol.type == option_of(fd, SO_TYPE)) return &protocol;
  }
  return nullptr;
}

std::string describe(int fd) {
  if (const Protocol* protocol = protocol_of(fd)) {
    return protocol->type == SOCK_STREAM ? "a TCP socket" : "a UDP socket";
  }
  const int domain = option_of(fd, SO_DOMAIN);
  switch (domain) {
    case AF_UNIX: return "a unix socket";
    case AF_NETLINK: return "a netlink socket";
    case AF_PACKET: return "a packet socket";
    case AF_VSOCK: return "a vsock socket";
    case AF_INET:
    case AF_INET6: return option_of(fd, SO_TYPE) == SOCK_RAW ? "a raw socket" : "an internet socket of this protocol";
    default: return fmt::format("a socket of the address family {}", domain);
  }
}

int events_of(int fd) {
  pollfd state = {fd, POLLIN | POLLRDHUP, 0};
  return ::poll(&state, 1, 0) == 1 ? state.revents : 0;
}

/// For one that listens tcpi_unacked are the connections that wait, tcpi_sacked the backlog (tcp_get_info()).
tcp_info info_of(int fd) {
  tcp_info info = {};
  socklen_t size = sizeof info;
  if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) fail_errno("TCP_INFO");
  return info;
}

bool has_connection(const tcp_info& info) { return info.tcpi_state != TCP_LISTEN && info.tcpi_state != TCP_CLOSE; }

/// Why its state cannot be kept.
std::optional<std::string> refuse_state(int fd, const Protocol& protocol, bool no_sockets) {
  const int events = events_of(fd);
  if (protocol.type == SOCK_STREAM) {
    const tcp_info info = info_of(fd);
    if (no_sockets) return std::nullopt;
    if (has_connection(info)) return "with a connection";
    if (info.tcpi_state == TCP_LISTEN) {
      if (info.tcpi_unacked != 0) return "with connections that are not accepted yet";
      return std::nullopt;
    }
    if ((events & POLLERR) != 0) return "with an error that is not read yet";
    if ((events & POLLRDHUP) != 0) return "whose connection has ended";
    return std::nullopt;
  }
  if ((events & POLLERR) != 0) return "with an error that is not read yet";
  if ((events & POLLRDHUP) != 0) return "with a half that is shut";
  if (!no_sockets && (events & POLLIN) != 0) return "with datagrams that are not read yet";
  if (has_joined_multicast(fd)) return "that has joined a multicast group";
  return std::nullopt;
}

class InetSocketKind : public DescriptorKind {
 public:
  const char* name() const override { return "inet"; }
  bool matches(const OpenFd& fd) const override { return S_ISSOCK(fd.st.st_mode); }
  bool has_owner() const override { return true; }

  std::optional<std::string> refuse(const CaptureContext& ctx, const OpenFd& fd) const override {
    const UniqueFd mine = ctx.take(fd.fd);
    const auto no = [&](std::string_view why) {
      std::string names;
      const auto local = is_inet(mine.get()) ? address_of(mine.get(), getsockname) : std::nullopt;
      const auto peer = is_inet(mine.get()) ? address_of(mine.get(), getpeername) : std::nullopt;
      if (local && local->port() != 0) names += ", " + local->text();
      if (peer) names += ", connected to " + peer->text();
      return fmt::format("{} ({}{}){}{} cannot be checkpointed", describe(mine.get()), fd.target, names, why.empty() ? "" : " ", why);
    };
    const Protocol* protocol = protocol_of(mine.get());
    if (protocol == nullptr) return no("");
    if (const auto why = refuse_socket_options(mine.get())) return no(*why);
    if (const auto why = refuse_state(mine.get(), *protocol, ctx.no_sockets)) return no(*why);
    return std::nullopt;
  }

  void capture(const CaptureContext& ctx, const OpenFd& fd, Record& out) const override {
    const std::string object = fmt::format("inet-{}", fd.st.st_ino);
    out.add("object", object);
    if (ctx.first(object)) capture_object(ctx, fd, object);
  }

  UniqueFd restore(const RestoreContext& ctx, const Record& record) const override {
    const std::string path = "objects/" + object_name(record, "inet-");
    UniqueFd fd = make(ctx, Record::parse(ctx.image->read(path), ctx.image->describe() + "/" + path));
    set_status_flags(fd.get(), record);
    return fd;
  }

 private:
  static void capture_object(const CaptureContext& ctx, const OpenFd& fd, const std::string& object) {
    const UniqueFd mine = ctx.take(fd.fd);
    const Protocol* protocol = protocol_of(mine.get());
    if (protocol == nullptr) fail(EOPNOTSUPP, "{}: fd {}: {} cannot be checkpointed", ctx.pid, fd.fd, describe(mine.get()));
    const int domain = option_of(mine.get(), SO_DOMAIN);
    const bool tcp = protocol->type == SOCK_STREAM;
    const tcp_info info = tcp ? info_of(mine.get()) : tcp_info{};
    const auto local = address_of(mine.get(), getsockname), peer = address_of(mine.get(), getpeername);
    const bool listens = tcp && info.tcpi_state == TCP_LISTEN, connected = !tcp && peer;
    Record out;
    out.add("domain", domain == AF_INET6 ? "inet6" : "inet");
    out.add("socket", protocol->name);
    out.add("state", listens ? "listening" : connected ? "connected" : "unconnected");
    const bool lost = tcp && has_connection(info);  // no_sockets
    if (local && !lost && (local->port() != 0 || !local->is_any())) out.add("local", local->text());
    if (connected) out.add("peer", peer->text());
    if (listens) out.add("backlog", uint64_t{info.tcpi_sacked});
    out.add("user", fmt::format("{} {}", fd.st.st_uid, fd.st.st_gid));
    const UniqueFd fresh(::socket(domain, protocol->type | SOCK_CLOEXEC, protocol->number));
    if (!fresh) fail_errno("{}: fd {}: a socket like it", ctx.pid, fd.fd);
    if (!lost) capture_inet_options(mine.get(), fresh.get(), out);
    capture_socket_options(mine.get(), out);
    ctx.image->put("objects/" + object, out.text());
  }

  static UniqueFd make(const RestoreContext& ctx, const Record& record) {
    const std::string domain_name = record.get("domain"), protocol_name = record.get("socket"), state = record.get("state");
    const Protocol* protocol = nullptr;
    for (const Protocol& known : kProtocols) {
      if (protocol_name == known.name) protocol = &known;
    }
    if (protocol == nullptr || (domain_name != "inet" && domain_name != "inet6")) {
      fail(EINVAL, "{}: '{} {}' is no internet socket", record.where(), escape(domain_name), escape(protocol_name));
    }
    const int domain = domain_name == "inet6" ? AF_INET6 : AF_INET;
    const bool tcp = protocol->type == SOCK_STREAM;
    if (state != "unconnected" && state != (tcp ? "listening" : "connected")) fail(EINVAL, "{}: state is malformed", record.where());
    UniqueFd fd(::socket(domain, protocol->type | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol->number));
    if (!fd) fail_errno("{}: socket", record.where());
    restore_socket_options(fd.get(), record);
    restore_inet_options(fd.get(), record);
    if (record.has("local")) bind_again(fd.get(), record, domain, tcp);
    if (state == "listening" && ::listen(fd.get(), static_cast<int>(record.get_u64("backlog", INT32_MAX))) != 0) {
      fail_errno("{}: listen", record.where());
    }
    if (state == "connected") {
      const Address peer = parse_address(record, "peer", domain);
      if (::connect(fd.get(), peer.get(), peer.size) != 0) fail_errno("{}: connecting to {}", record.where(), peer.text());
    }
    set_user(ctx, fd.get(), record);
    return fd;
  }

  /// Connections of the old one that the kernel has not forgotten yet must not keep a TCP port from it.
  static void bind_again(int fd, const Record& record, int domain, bool tcp) {
    const Address local = parse_address(record, "local", domain);
    const int reuse = option_of(fd, SO_REUSEADDR), yes = 1;
    if (tcp) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (::bind(fd, local.get(), local.size) != 0) fail_errno("{}: bind to {}", record.where(), local.text());
    if (tcp) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof reuse);
  }

  static void set_user(const RestoreContext& ctx, int fd, const Record& record) {
    const auto ids = record.get_numbers("user", 2);
    if (ids[0] >= UINT32_MAX || ids[1] >= UINT32_MAX) fail(EINVAL, "{}: user is malformed", record.where());
    if (!ctx.caller.privileged()) return;
    if (::fchown(fd, static_cast<uid_t>(ids[0]), static_cast<gid_t>(ids[1])) != 0) fail_errno("{}: user", record.where());
  }
};

}  // namespace

const DescriptorKind& inet_socket_kind() {
  static const InetSocketKind kind;
  return kind;
}

}  // namespace ckpt
