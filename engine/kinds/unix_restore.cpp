#include "engine/kinds/unix_restore.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>

#include "engine/base/error.h"
#include "engine/kinds/socket_options.h"
#include "engine/kinds/unix_connect.h"
#include "engine/kinds/unix_name.h"
#include "engine/kinds/unix_queue.h"
#include "engine/kinds/unix_record.h"
#include "engine/process/as_caller.h"

namespace ckpt {

namespace {

constexpr std::string_view kPrefix = "unix-";
constexpr const char* kMade = "unix";            // in ctx.objects once all are made
constexpr size_t kMaxRecord = 64 << 20, kMaxData = 1 << 30;

struct Node {
  std::string object, where;
  Record record;
  UnixSocket socket;
  std::string data;
  int fd = -1;                 // owned by ctx.objects
  UniqueFd file;               // O_PATH, of the file it is bound to
  UniqueFd temporary;          // an other end that has gone, kept while the queue is filled
  Node* pair = nullptr;        // a datagram socket: the one that it sends to at first
  bool connected = false;      // a datagram socket: it sends to its peer already
};

std::string image_path(const std::string& object) { return "objects/" + object; }

std::string read_data(const RestoreContext& ctx, const std::string& object, const UnixSocket& socket) {
  const std::string path = image_path(object) + ".data";
  std::string data = ctx.image->has(path) ? ctx.image->read(path, kMaxData) : "";
  size_t total = 0;
  for (const UnixMessage& message : socket.messages) total += message.size;
  if (total != data.size()) fail(EINVAL, "{}/{}: has {} bytes, not {}", ctx.image->describe(), path, data.size(), total);
  return data;
}

/// The sockets of an image, and the steps in which they are made.
class Network {
 public:
  explicit Network(const RestoreContext& ctx) : ctx_(ctx), maker_(ctx) {}

  void make() {
    load();
    for (auto& [object, node] : nodes_) check_links(node);
    // Connections first: they borrow the names of listening sockets.
    for (auto& [object, node] : nodes_) make_connection(node);
    make_datagrams();
    for (auto& [object, node] : nodes_) make_single(node);
    for (auto& [object, node] : nodes_) make_pending(node);
    for (auto& [object, node] : nodes_) widen_socket_buffers(node.fd, total_);
    for (auto& [object, node] : nodes_) fill(node);
    for (auto& [object, node] : nodes_) finish(node);
  }

 private:
  using State = UnixState;

  void load() {
    for (const ImageEntry& entry : ctx_.image->below("objects")) {
      const std::string object = entry.path.substr(entry.path.rfind('/') + 1);
      if (!object.starts_with(kPrefix) || !parse_u64(object.substr(kPrefix.size()))) continue;
      Node& node = nodes_[object];
      node.object = object;
      node.where = ctx_.image->describe() + "/" + entry.path;
      node.record = Record::parse(ctx_.image->read(entry.path, kMaxRecord), node.where);
      node.socket = UnixSocket::parse(node.record);
      node.data = read_data(ctx_, object, node.socket);
      total_ += node.data.size();
    }
  }

  Node& peer_of(const Node& node) {
    const auto peer = nodes_.find(node.socket.peer);
    if (peer == nodes_.end()) fail(EINVAL, "{}: {} is not in the image", node.where, node.socket.peer);
    return peer->second;
  }

  void check_links(const Node& node) {
    const UnixSocket& s = node.socket;
    const auto contradiction = [&](const std::string& other) { fail(EINVAL, "{}: {} does not fit", node.where, other); };
    if (s.state == State::connected || s.state == State::pending) {
      const Node& peer = peer_of(node);
      if (peer.socket.type != s.type) contradiction(s.peer);
      if (s.is_stream() && s.state == State::connected &&
          (peer.socket.state != State::connected || peer.socket.peer != node.object || &peer == &node)) {
        contradiction(s.peer);
      }
      if (s.state == State::pending && std::ranges::count(peer.socket.pending, node.object) != 1) contradiction(s.peer);
      if (s.is_stream() && s.accepted && peer.socket.accepted) contradiction(s.peer);
    }
    for (const std::string& client : s.pending) {
      const auto it = nodes_.find(client);
      if (it == nodes_.end() || it->second.socket.state != State::pending || it->second.socket.peer != node.object) {
        contradiction(client);
      }
    }
    const bool readable = !s.is_stream() || s.state == State::connected || s.state == State::hung_up;
    if (!readable && !s.messages.empty()) fail(EINVAL, "{}: nothing can be queued in it", node.where);
  }

  void put(Node& node, UniqueFd fd) {
    node.fd = fd.get();
    (*ctx_.objects)[node.object] = std::move(fd);
  }

  void bind(Node& node) {
    const UnixSocket& s = node.socket;
    if (!s.name.empty() && !s.accepted) node.file = bind_again(ctx_, node.fd, s.name, s.file, node.where);
  }

  void put_new(Node& node) {
    put(node, maker_.socket(node.socket.type));
    bind(node);
  }

  // ---- connections --------------------------------------------------------------------------------------------------

  void make_connection(Node& node) {
    const UnixSocket& s = node.socket;
    if (!s.is_stream() || node.fd >= 0) return;
    if (s.state == State::hung_up) return make_hung_up(node);
    if (s.state != State::connected) return;
    Node& peer = peer_of(node);
    if (!s.accepted && !peer.socket.accepted) {
      auto [one, other] = maker_.pair(s.type, s.peercred, node.where);
      put(node, std::move(one));
      put(peer, std::move(other));
      bind(node);
      return bind(peer);
    }
    Node& server = s.accepted ? node : peer;
    Node& client = s.accepted ? peer : node;
    put_new(client);
    put(server, maker_.connect(client.fd, s.type, server.socket.name,
                               {.server = client.socket.peercred, .client = server.socket.peercred}, server.where));
  }

  void make_hung_up(Node& node) {
    const UnixSocket& s = node.socket;
    const UnixMaker::Creds creds = {.server = s.peercred, .client = s.peercred};
    if (s.accepted) {
      node.temporary = maker_.socket(s.type);
      if (!s.peer_name.empty()) bind_again(ctx_, node.temporary.get(), s.peer_name, std::nullopt, node.where);
      put(node, maker_.connect(node.temporary.get(), s.type, s.name, creds, node.where));
    } else if (!s.peer_name.empty()) {
      put_new(node);
      node.temporary = maker_.connect(node.fd, s.type, s.peer_name, creds, node.where);
    } else {
      auto [one, other] = maker_.pair(s.type, s.peercred, node.where);
      put(node, std::move(one));
      node.temporary = std::move(other);
      bind(node);
    }
  }

  void make_single(Node& node) {
    if (node.fd >= 0) return;
    put_new(node);
    if (node.socket.state == State::listening) listen(node, std::max(node.socket.backlog, 1u + pending_count(node)));
  }

  static unsigned pending_count(const Node& node) { return static_cast<unsigned>(node.socket.pending.size()); }

  void listen(const Node& node, unsigned backlog) const {
    maker_.listen(node.fd, backlog, node.socket.peercred, node.where);
  }

  void make_pending(Node& node) {
    for (const std::string& client : node.socket.pending) {
      maker_.connect_to(nodes_.at(client).fd, node.socket.name, node.file.get(), node.socket.peercred, node.where);
    }
    if (node.socket.backlog < 1u + pending_count(node) && node.socket.state == State::listening) {
      listen(node, node.socket.backlog);
    }
  }

  // ---- datagram sockets -----------------------------------------------------------------------------------------------

  void make_datagrams() {
    // Who sends to one without a name was made together with it; those that send to each other first.
    for (const bool mutual : {true, false}) {
      for (auto& [object, node] : nodes_) {
        const UnixSocket& s = node.socket;
        if (s.is_stream() || s.state != State::connected || node.fd >= 0) continue;
        Node& peer = peer_of(node);
        const bool needs_pair = peer.socket.name.empty() || (mutual && s.name.empty() && s.peercred);
        if (!needs_pair || (peer.socket.peer == node.object) != mutual || peer.fd >= 0 || &peer == &node) continue;
        make_datagram_pair(node, peer);
      }
    }
    for (auto& [object, node] : nodes_) {
      if (node.socket.is_stream() || node.fd >= 0) continue;
      const UnixSocket& s = node.socket;
      const bool gone = s.state == State::hung_up && s.peer_name.empty();
      if (gone || s.peercred || (s.name.empty() && !s.messages.empty())) {
        auto [one, other] = maker_.pair(s.type, s.peercred, node.where);
        put(node, std::move(one));
        node.temporary = std::move(other);
        bind(node);
      } else {
        put_new(node);
      }
    }
  }

  void make_datagram_pair(Node& node, Node& peer) {
    auto [one, other] = maker_.pair(node.socket.type, node.socket.peercred, node.where);
    put(node, std::move(one));
    put(peer, std::move(other));
    node.pair = &peer;
    peer.pair = &node;
    node.connected = true;
    peer.connected = peer.socket.peer == node.object;
    bind(node);
    bind(peer);
  }

  /// Lets a datagram socket send to where it did.
  void connect_datagram(Node& node) {
    const UnixSocket& s = node.socket;
    if (s.is_stream() || node.connected) return;
    node.connected = true;
    if (s.state == State::connected) {
      Node& peer = peer_of(node);
      connect_here(node.fd, reachable(peer), node.where);
    } else if (s.state == State::hung_up && !s.peer_name.empty()) {
      const UniqueFd gone = maker_.socket(SOCK_DGRAM);
      const UniqueFd file = bind_again(ctx_, gone.get(), s.peer_name, std::nullopt, node.where);
      connect_here(node.fd, file ? own_path(file.get()) : s.peer_name, node.where);
    } else if (s.state == State::unconnected && (node.pair != nullptr || node.temporary)) {
      disconnect(node.fd, node.where);
    }
  }

  UnixName reachable(const Node& node) const {
    if (node.socket.name.empty()) fail(EINVAL, "{}: has no name and cannot be reached", node.where);
    return node.file ? own_path(node.file.get()) : node.socket.name;
  }

  // ---- what is queued -------------------------------------------------------------------------------------------------

  void fill(Node& node) {
    size_t at = 0;
    for (const UnixMessage& message : node.socket.messages) {
      send(node, message, std::string_view(node.data).substr(at, message.size));
      at += message.size;
    }
    connect_datagram(node);
  }

  void send(Node& node, const UnixMessage& message, std::string_view data) {
    if (node.socket.is_stream()) {
      const int from = node.temporary ? node.temporary.get() : peer_of(node).fd;
      return send_again(ctx_, from, message, data, {}, node.where);
    }
    Node* sender = sender_of(node, message.from);
    if (sender == nullptr) {
      const bool paired = node.temporary && message.from.empty();
      const int from = paired ? node.temporary.get() : stranger(message.from, node.where);
      return send_again(ctx_, from, message, data, paired ? UnixName{} : reachable(node), node.where);
    }
    // A queue that only the other end fills has no limit; what others have sent came before they were connected.
    if (sender->socket.peer == node.object && node.socket.peer == sender->object) {
      connect_datagram(*sender);
      connect_datagram(node);
    }
    const bool direct = sender->pair == &node || (sender->connected && sender->socket.peer == node.object);
    send_again(ctx_, sender->fd, message, data, direct ? UnixName{} : reachable(node), node.where);
  }

  /// The socket of the image that has sent a datagram, if it is still there.
  Node* sender_of(Node& node, const UnixName& from) {
    if (from.empty() && node.pair != nullptr && node.pair->socket.name.empty()) return node.pair;
    for (auto& [object, other] : nodes_) {
      const UnixSocket& s = other.socket;
      if (s.is_stream() || s.name != from) continue;
      if (!from.empty() || s.peer == node.object) return &other;
    }
    return nullptr;
  }

  /// A socket with the name of a sender that has gone.
  int stranger(const UnixName& name, const std::string& where) {
    UniqueFd& fd = strangers_[name];
    if (!fd) {
      fd = maker_.socket(SOCK_DGRAM);
      if (!name.empty()) bind_again(ctx_, fd.get(), name, std::nullopt, where);
      widen_socket_buffers(fd.get(), total_);
    }
    return fd.get();
  }

  // ---- the rest -------------------------------------------------------------------------------------------------------

  void finish(Node& node) {
    const UnixSocket& s = node.socket;
    if (s.reset && node.temporary && ::send(node.fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) != 1) {
      fail_errno("{}: breaking the connection", node.where);
    }
    node.temporary.reset();
    for (const auto& [shut, how] : {std::pair{s.shut_read, SHUT_RD}, std::pair{s.shut_write, SHUT_WR}}) {
      if (shut && ::shutdown(node.fd, how) != 0) fail_errno("{}: shutdown", node.where);
    }
    if (s.peek_off >= 0 && setsockopt(node.fd, SOL_SOCKET, SO_PEEK_OFF, &s.peek_off, sizeof s.peek_off) != 0) {
      fail_errno("{}: SO_PEEK_OFF", node.where);
    }
    const AsCaller rights(ctx_.caller);
    restore_socket_options(node.fd, node.record);
    struct stat st = {};
    if (fstat(node.fd, &st) != 0) fail_errno("{}: fstat", node.where);
    if (ctx_.caller.privileged() && (st.st_uid != s.uid || st.st_gid != s.gid) && fchown(node.fd, s.uid, s.gid) != 0) {
      fail_errno("{}: owner", node.where);
    }
  }

  const RestoreContext& ctx_;
  UnixMaker maker_;
  std::map<std::string, Node> nodes_;
  std::map<UnixName, UniqueFd> strangers_;
  size_t total_ = 0;
};

}  // namespace

UniqueFd plan_unix_socket(const RestoreContext& ctx, const std::string& object, const std::string& where) {
  const std::string path = image_path(object);
  if (!ctx.image->has(path)) fail(EINVAL, "{}: {} is not in the image", where, object);
  const UnixSocket socket = UnixSocket::parse(Record::parse(ctx.image->read(path, kMaxRecord), ctx.image->describe() + "/" + path));
  for (const UnixMessage& message : socket.messages) {
    for (const std::string& word : message.passes) {
      if (!word.starts_with("fd-")) restore_queued(ctx, word);
    }
  }
  return open_at(AT_FDCWD, "/dev/null", O_RDONLY);
}

UniqueFd take_unix_socket(const RestoreContext& ctx, const std::string& object, const std::string& where) {
  if (ctx.objects->try_emplace(kMade).second) Network(ctx).make();
  const auto made = ctx.objects->find(object);
  if (made == ctx.objects->end()) fail(EINVAL, "{}: {} is not in the image", where, object);
  UniqueFd fd(fcntl(made->second.get(), F_DUPFD_CLOEXEC, 0));
  if (!fd) fail_errno("{}: {}", where, object);
  return fd;
}

}  // namespace ckpt
