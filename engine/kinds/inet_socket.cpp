#include "engine/kinds/inet_socket.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstring>

#include "engine/base/error.h"
#include "engine/kinds/fd_flags.h"
#include "engine/kinds/inet_address.h"
#include "engine/kinds/inet_options.h"
#include "engine/kinds/peer_hold.h"
#include "engine/kinds/pipe.h"
#include "engine/kinds/socket_options.h"
#include "engine/kinds/tcp_connection.h"

namespace ckpt {

namespace {

struct Protocol {
  const char* name;
  int type, number;
};
constexpr std::array kProtocols = {Protocol{"tcp", SOCK_STREAM, IPPROTO_TCP}, Protocol{"udp", SOCK_DGRAM, IPPROTO_UDP},
                                   Protocol{"udplite", SOCK_DGRAM, IPPROTO_UDPLITE}};

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

/// Why its state cannot be kept.
std::optional<std::string> refuse_state(int fd, const Protocol& protocol, bool no_sockets) {
  const int events = events_of(fd);
  if (protocol.type == SOCK_STREAM) {
    const tcp_info info = tcp_info_of(fd);
    if (no_sockets) return std::nullopt;
    if (has_connection(info)) return refuse_tcp_connection(fd, info);
    if (info.tcpi_state == TCP_LISTEN) {
      if (info.tcpi_unacked != 0) return "with connections that are not accepted yet";
      return std::nullopt;
    }
    if ((events & POLLERR) != 0) return "with an error that is not read yet";
    int unread = 0;
    if (ioctl(fd, FIONREAD, &unread) == 0 && unread != 0) return "whose connection has ended with data that is not read yet";
    return std::nullopt;
  }
  if ((events & POLLERR) != 0) return "with an error that is not read yet";
  if ((events & POLLRDHUP) != 0) return "with a half that is shut";
  if (!no_sockets && (events & POLLIN) != 0) return "with datagrams that are not read yet";
  if (has_joined_multicast(fd)) return "that has joined a multicast group";
  return std::nullopt;
}

/// Of a TCP socket; of any other it is `unconnected`.
enum class State { unconnected, listening, established, ended, lost };

const char* name_of(State state) {
  switch (state) {
    case State::listening: return "listening";
    case State::established: return "established";
    case State::ended: return "ended";
    default: return "unconnected";
  }
}

/// In the stop, in which what comes from outside may still change it.
State tcp_state(const CaptureContext& ctx, int mine, const OpenFd& fd) {
  const auto info = [mine] { return tcp_info_of(mine); };
  if (ctx.no_sockets && has_connection(info())) return State::lost;
  if (has_connection(info()) && tcp_connection_of(ctx, fd.st.st_ino) != nullptr) return State::established;
  if (const auto why = refuse_state(mine, kProtocols[0], ctx.no_sockets)) {
    fail(EOPNOTSUPP, "{}: fd {}: {} {} cannot be checkpointed", ctx.pid, fd.fd, describe(mine), *why);
  }
  if (info().tcpi_state == TCP_LISTEN) return State::listening;
  return (events_of(mine) & POLLRDHUP) != 0 ? State::ended : State::unconnected;
}

/// Names of all of an image's.
std::vector<std::string> recorded_sockets(const ImageSource& image) {
  constexpr std::string_view kPath = "objects/inet-";
  std::vector<std::string> objects;
  for (const ImageEntry& entry : image.below("objects")) {
    if (!entry.path.starts_with(kPath) || entry.path.find('.') != std::string::npos) continue;
    objects.push_back(entry.path.substr(entry.path.find('/') + 1));
  }
  return objects;
}

Record record_of(const ImageSource& image, const std::string& object) {
  const std::string path = "objects/" + object;
  return Record::parse(image.read(path), image.describe() + "/" + path);
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
    const std::string object = object_name(record, "inet-");
    make_connections(ctx);
    const auto made = ctx.objects->find(object);
    UniqueFd fd = made == ctx.objects->end() ? make(ctx, record_of(*ctx.image, object), object)
                                             : UniqueFd(::fcntl(made->second.get(), F_DUPFD_CLOEXEC, 0));
    if (!fd) fail_errno("{}: dup", record.where());
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
    const State state = tcp ? tcp_state(ctx, mine.get(), fd) : State::unconnected;
    const auto local = address_of(mine.get(), getsockname), peer = address_of(mine.get(), getpeername);
    Record out;
    out.add("domain", domain == AF_INET6 ? "inet6" : "inet");
    out.add("socket", protocol->name);
    const bool connected = !tcp && peer;
    out.add("state", connected ? "connected" : name_of(state));
    const bool named = local && (local->port() != 0 || !local->is_any());
    if (named && state != State::lost && state != State::ended) out.add("local", local->text());
    if (peer && (connected || state == State::established)) out.add("peer", peer->text());
    if (state == State::listening) out.add("backlog", uint64_t{tcp_info_of(mine.get()).tcpi_sacked});
    out.add("user", fmt::format("{} {}", fd.st.st_uid, fd.st.st_gid));
    if (state == State::established) capture_tcp_connection(ctx, object, *tcp_connection_of(ctx, fd.st.st_ino), out);
    if (state == State::established && !ctx.peer_hold.empty()) out.add("held", ctx.peer_hold);
    const UniqueFd fresh(::socket(domain, protocol->type | SOCK_CLOEXEC, protocol->number));
    if (!fresh) fail_errno("{}: fd {}: a socket like it", ctx.pid, fd.fd);
    const bool had_connection = state == State::established || state == State::ended;
    if (state != State::lost) capture_inet_options(mine.get(), fresh.get(), had_connection, out);
    capture_socket_options(mine.get(), out);
    ctx.image->put("objects/" + object, out.text());
  }

  /// Before any socket is bound that listens at one's port: what the kernel remembers of a connection's end (TIME_WAIT) would
  /// keep it from that, and goes when the connection is there again.
  static void make_connections(const RestoreContext& ctx) {
    if (!ctx.objects->emplace("inet", UniqueFd()).second) return;
    for (const std::string& object : recorded_sockets(*ctx.image)) {
      const Record record = record_of(*ctx.image, object);
      if (record.find("state") == "established") ctx.objects->emplace(object, make(ctx, record, object));
    }
  }

  static UniqueFd make(const RestoreContext& ctx, const Record& record, const std::string& object) {
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
    const bool of_tcp = state == "listening" || state == "established" || state == "ended";
    if (state != "unconnected" && !(tcp ? of_tcp : state == "connected")) fail(EINVAL, "{}: state is malformed", record.where());
    UniqueFd fd(::socket(domain, protocol->type | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol->number));
    if (!fd) fail_errno("{}: socket", record.where());
    restore_socket_options(fd.get(), record);
    restore_inet_options(fd.get(), record);
    if (state == "established") {
      restore_tcp_connection(ctx, fd.get(), object, record, domain);
    } else {
      bind_again(fd.get(), record, domain, tcp);
    }
    // Without a connection it is an error, and both halves are shut (inet_shutdown()).
    if (state == "ended") ::shutdown(fd.get(), SHUT_RDWR);
    if (state == "connected") {
      const InetAddress peer = parse_address(record, "peer", domain);
      if (::connect(fd.get(), peer.get(), peer.size) != 0) fail_errno("{}: connecting to {}", record.where(), peer.text());
    }
    restore_socket_user(fd.get(), record, ctx.caller);
    return fd;
  }

  /// Connections, and those of the old one that the kernel has not forgotten yet, must not keep a TCP port from it. The port is
  /// asked for again by listen(2).
  static void bind_again(int fd, const Record& record, int domain, bool tcp) {
    const int reuse = option_of(fd, SO_REUSEADDR), yes = 1;
    if (tcp) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (record.has("local")) {
      const InetAddress local = parse_address(record, "local", domain);
      if (::bind(fd, local.get(), local.size) != 0) fail_errno("{}: bind to {}", record.where(), local.text());
    }
    if (record.get("state") == "listening" && ::listen(fd, static_cast<int>(record.get_u64("backlog", INT32_MAX))) != 0) {
      fail_errno("{}: listen", record.where());
    }
    if (tcp) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof reuse);
  }
};

}  // namespace

std::string recorded_hold(const ImageSource& image) {
  for (const std::string& object : recorded_sockets(image)) {
    const auto name = record_of(image, object).find("held");
    if (name && is_hold_name(*name)) return *name;
  }
  return "";
}

const DescriptorKind& inet_socket_kind() {
  static const InetSocketKind kind;
  return kind;
}

}  // namespace ckpt
