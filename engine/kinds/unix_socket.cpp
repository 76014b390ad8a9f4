#include "engine/kinds/unix_socket.h"

#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>

#include "engine/base/error.h"
#include "engine/kinds/fd_flags.h"
#include "engine/kinds/pipe.h"
#include "engine/kinds/sock_diag.h"
#include "engine/kinds/socket_options.h"
#include "engine/kinds/unix_name.h"
#include "engine/kinds/unix_queue.h"
#include "engine/kinds/unix_record.h"
#include "engine/kinds/unix_restore.h"

namespace ckpt {

namespace {

constexpr unsigned kReceiveShut = 1, kSendShut = 2;  // RCV_SHUTDOWN, SEND_SHUTDOWN in include/net/sock.h

std::string object_of(ino_t inode) { return fmt::format("unix-{}", inode); }

bool is_shown(const UnixName& name) { return !name.empty(); }

UnixName name_asked(int fd, int (*ask)(int, sockaddr*, socklen_t*)) {
  sockaddr_un address = {};
  socklen_t size = sizeof address;
  return ask(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0 ? name_from(address, size) : UnixName{};
}

short events_of(int fd) {
  pollfd state = {fd, POLLIN | POLLOUT, 0};
  return ::poll(&state, 1, 0) == 1 ? state.revents : short{0};
}

/// The listening socket in whose backlog a client waits; null for none.
const UnixDiag* listener_of(const CaptureContext& ctx, ino_t client) {
  for (const auto& [inode, socket] : ctx.unix_sockets()) {
    if (std::ranges::find(socket.pending, client) != socket.pending.end()) return &socket;
  }
  return nullptr;
}

bool has_listener(const CaptureContext& ctx, const UnixDiag& like) {
  return std::ranges::any_of(ctx.unix_sockets(), [&](const auto& entry) {
    const UnixDiag& socket = entry.second;
    return socket.state == TCP_LISTEN && socket.type == like.type && socket.name == like.name && socket.file == like.file;
  });
}

/// A socket that was accepted has the name of the listening one without being bound. Of two ends that both have a name one
/// was accepted: that of a listening socket, if there is still one, else the younger.
bool was_accepted(const CaptureContext& ctx, const UnixDiag& mine, const UnixDiag* peer, bool peer_named) {
  if (mine.name.empty()) return false;
  if (!peer_named) return true;
  if (has_listener(ctx, mine)) return true;
  return peer == nullptr || (!has_listener(ctx, *peer) && mine.inode > peer->inode);
}

/// How a socket stands to its other end.
struct Standing {
  UnixState state = UnixState::unconnected;
  std::string peer;        // an object
  bool outside = false;    // the other end is somebody else's
};

Standing standing_of(const CaptureContext& ctx, const OpenFd& fd, const UnixDiag& diag, int mine) {
  if (diag.state == TCP_LISTEN) return {UnixState::listening, "", false};
  if (!diag.peer) return {};
  if (*diag.peer != 0) {
    if (ctx.holds(fd.st.st_dev, *diag.peer)) return {UnixState::connected, object_of(*diag.peer), false};
    return {UnixState::hung_up, "", true};
  }
  // Nobody's descriptor: it was closed, which shuts both halves of a connection, or has yet to be accepted.
  if (diag.type == SOCK_DGRAM) return {UnixState::hung_up, "", false};
  const UnixDiag* listener = listener_of(ctx, fd.st.st_ino);
  if (listener == nullptr) return {UnixState::hung_up, "", (events_of(mine) & POLLHUP) == 0};
  if (!ctx.holds(fd.st.st_dev, listener->inode)) return {UnixState::hung_up, "", true};
  return {UnixState::pending, object_of(listener->inode), false};
}

/// Whether something that cannot be looked at waits in a listening socket's backlog.
bool has_strangers(const CaptureContext& ctx, const OpenFd& fd, const UnixDiag& diag) {
  return std::ranges::any_of(diag.pending,
                             [&](ino_t client) { return client == 0 || !ctx.holds(fd.st.st_dev, client); });
}

std::optional<UnixCred> peer_cred(int fd) {
  ucred cred = {};
  socklen_t size = sizeof cred;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &size) != 0 || cred.uid == static_cast<uid_t>(-1)) return std::nullopt;
  UnixCred out{std::max(cred.pid, 0), cred.uid, cred.gid, {}};
  size = 0;
  getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, nullptr, &size);
  out.groups.resize(size / sizeof(gid_t));
  if (size != 0 && getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, out.groups.data(), &size) != 0) out.groups.clear();
  return out;
}

bool has_urgent_byte(int fd) {
  char byte = 0;
  return recv(fd, &byte, 1, MSG_OOB | MSG_PEEK | MSG_DONTWAIT) == 1;
}

class UnixSocketKind : public DescriptorKind {
 public:
  const char* name() const override { return "unix"; }
  bool matches(const OpenFd& fd) const override { return is_unix_socket(fd); }
  bool has_owner() const override { return true; }

  std::optional<std::string> refuse(const CaptureContext& ctx, const OpenFd& fd) const override {
    const UniqueFd mine = ctx.take(fd.fd);
    const UnixDiag* diag = ctx.unix_socket(fd.st.st_ino);
    if (diag == nullptr) return not_possible(fd, mine.get(), "that is in another network namespace");
    if (const auto why = refuse_socket_options(mine.get())) return not_possible(fd, mine.get(), *why);
    if (diag->type == SOCK_STREAM && has_urgent_byte(mine.get())) {
      return not_possible(fd, mine.get(), "with urgent data that is not read yet");
    }
    const Standing standing = standing_of(ctx, fd, *diag, mine.get());
    if (standing.state == UnixState::pending && !standing.outside && unsent(mine.get())) {
      return not_possible(fd, mine.get(), "that has sent data before it was accepted");
    }
    if (ctx.no_sockets || ctx.may_hold_more()) return std::nullopt;
    if (standing.outside) return not_possible(fd, mine.get(), "whose other end is outside the process tree");
    if (diag->state == TCP_LISTEN && has_strangers(ctx, fd, *diag)) {
      return not_possible(fd, mine.get(), "with connections from outside the process tree that are not accepted yet");
    }
    return std::nullopt;
  }

  void capture(const CaptureContext& ctx, const OpenFd& fd, Record& out) const override {
    const std::string object = object_of(fd.st.st_ino);
    out.add("object", object);
    if (ctx.first(object)) capture_object(ctx, fd, object);
  }

  UniqueFd restore(const RestoreContext& ctx, const Record& record) const override {
    return plan_unix_socket(ctx, object_name(record, "unix-"), record.where());
  }
  bool completed_later() const override { return true; }
  UniqueFd complete(const RestoreContext& ctx, const Record& record) const override {
    UniqueFd fd = take_unix_socket(ctx, object_name(record, "unix-"), record.where());
    set_status_flags(fd.get(), record);
    return fd;
  }

 private:
  static std::string not_possible(const OpenFd& fd, int mine, std::string_view why) {
    std::string names;
    if (const UnixName own = name_asked(mine, getsockname); is_shown(own)) names += ", " + own.shown();
    if (const UnixName peer = name_asked(mine, getpeername); is_shown(peer)) names += ", connected to " + peer.shown();
    return fmt::format("a unix socket ({}{}) {} cannot be checkpointed", fd.target, names, why);
  }

  static bool unsent(int fd) {
    int bytes = 0;
    return ::ioctl(fd, SIOCOUTQ, &bytes) == 0 && bytes != 0;
  }

  static void capture_object(const CaptureContext& ctx, const OpenFd& fd, const std::string& object) {
    const UniqueFd mine = ctx.take(fd.fd);
    const UnixDiag* diag = ctx.unix_socket(fd.st.st_ino);
    if (diag == nullptr) fail(EOPNOTSUPP, "{}: fd {}: {}", ctx.pid, fd.fd, *unix_socket_kind().refuse(ctx, fd));
    const Standing standing = standing_of(ctx, fd, *diag, mine.get());
    UnixSocket out;
    out.type = diag->type;
    out.state = standing.state;
    out.peer = standing.peer;
    capture_names(ctx, *diag, mine.get(), out);
    if (out.state == UnixState::listening) {
      out.backlog = diag->backlog;
      for (const ino_t client : diag->pending) {
        if (client != 0 && ctx.holds(fd.st.st_dev, client)) out.pending.push_back(object_of(client));
      }
    }
    out.peercred = peer_cred(mine.get());
    if (out.state != UnixState::hung_up || out.type == SOCK_DGRAM) {
      out.shut_read = (diag->shutdown & kReceiveShut) != 0;
      out.shut_write = (diag->shutdown & kSendShut) != 0;
    }
    out.reset = out.is_stream() && out.state == UnixState::hung_up && (events_of(mine.get()) & POLLERR) != 0;
    out.peek_off = socket_option(mine.get(), SOL_SOCKET, SO_PEEK_OFF).value_or(-1);
    out.uid = fd.st.st_uid;
    out.gid = fd.st.st_gid;
    const auto queue = ctx.queued->queues.find(fd.st.st_ino);
    if (queue != ctx.queued->queues.end()) out.messages = queue->second.messages;
    Record record;
    out.write(record);
    capture_socket_options(mine.get(), record);
    ctx.image->put("objects/" + object, record.text());
    if (queue != ctx.queued->queues.end() && !queue->second.data.empty()) {
      ctx.image->put("objects/" + object + ".data", queue->second.data);
    }
  }

  static void capture_names(const CaptureContext& ctx, const UnixDiag& diag, int mine, UnixSocket& out) {
    out.name = name_asked(mine, getsockname);
    const UnixName peer_name = name_asked(mine, getpeername);
    const bool has_peer = out.state == UnixState::connected || out.state == UnixState::hung_up;
    if (out.is_stream() && has_peer) {
      const UnixDiag* peer = diag.peer ? ctx.unix_socket(*diag.peer) : nullptr;
      out.accepted = was_accepted(ctx, diag, peer, is_shown(peer_name));
    }
    if (out.state == UnixState::hung_up) out.peer_name = peer_name;
    if (!out.accepted && out.name.is_path() && diag.file) out.file = find_socket_file(ctx, out.name, *diag.file);
  }
};

}  // namespace

const DescriptorKind& unix_socket_kind() {
  static const UnixSocketKind kind;
  return kind;
}

}  // namespace ckpt
