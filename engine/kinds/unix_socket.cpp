#include "engine/kinds/unix_socket.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "engine/base/error.h"
#include "engine/kinds/fd_flags.h"

namespace ckpt {

namespace {

int option(int fd, int name) {
  int value = -1;
  socklen_t size = sizeof value;
  return getsockopt(fd, SOL_SOCKET, name, &value, &size) == 0 ? value : -1;
}

const char* type_name(int type) {
  return type == SOCK_STREAM ? "stream" : type == SOCK_SEQPACKET ? "seqpacket" : type == SOCK_DGRAM ? "dgram" : nullptr;
}

int type_number(const Record& record) {
  const std::string name = record.get("socket");
  for (const int type : {SOCK_STREAM, SOCK_SEQPACKET, SOCK_DGRAM}) {
    if (name == type_name(type)) return type;
  }
  fail(EINVAL, "{}: '{}' is not a kind of unix socket", record.where(), escape(name));
}

// "unconnected", "hung_up", or nothing for one that has a name, listens, has a living peer or unread data.
const char* state_of(int fd) {
  sockaddr_un address = {};
  socklen_t size = sizeof address;
  int unread = 0;
  if (option(fd, SO_DOMAIN) != AF_UNIX || type_name(option(fd, SO_TYPE)) == nullptr || option(fd, SO_ACCEPTCONN) != 0 ||
      getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0 || size > sizeof address.sun_family ||
      ::ioctl(fd, FIONREAD, &unread) != 0 || unread != 0) {
    return nullptr;
  }
  size = sizeof address;
  const bool connected = getpeername(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0;
  if (!connected) return errno == ENOTCONN ? "unconnected" : nullptr;
  // POLLHUP on a connected socket: both directions are shut, by the peer's end or by shutdown(2) (unix_poll in
  // net/unix/af_unix.c). Either way nothing can pass any more.
  pollfd state = {fd, POLLIN, 0};
  const bool stream = option(fd, SO_TYPE) != SOCK_DGRAM;
  return stream && ::poll(&state, 1, 0) == 1 && (state.revents & POLLHUP) != 0 ? "hung_up" : nullptr;
}

class UnixSocketKind : public DescriptorKind {
 public:
  const char* name() const override { return "unix"; }
  bool matches(const OpenFd& fd) const override {
    return S_ISSOCK(fd.st.st_mode) && fd.info("scm_fds").has_value();
  }

  std::optional<std::string> refuse(const CaptureContext& ctx, const OpenFd& fd) const override {
    if (state_of(ctx.take(fd.fd).get()) != nullptr) return std::nullopt;
    return fmt::format("a unix socket ({}) that has a name, a peer or unread data cannot be checkpointed", fd.target);
  }

  void capture(const CaptureContext& ctx, const OpenFd& fd, Record& out) const override {
    const UniqueFd mine = ctx.take(fd.fd);
    const char* state = state_of(mine.get());
    if (state == nullptr) {
      fail(EOPNOTSUPP, "{}: fd {}: a unix socket ({}) that has a name, a peer or unread data cannot be checkpointed",
           ctx.pid, fd.fd, fd.target);
    }
    out.add("socket", type_name(option(mine.get(), SO_TYPE)));
    out.add("state", state);
  }

  UniqueFd restore(const RestoreContext&, const Record& record) const override {
    const int type = type_number(record) | SOCK_CLOEXEC;
    const std::string state = record.get("state");
    if (state != "unconnected" && state != "hung_up") fail(EINVAL, "{}: '{}' is not a state", record.where(), escape(state));
    int ends[2] = {-1, -1};
    if (state == "unconnected" ? (ends[0] = ::socket(AF_UNIX, type, 0)) < 0
                               : ::socketpair(AF_UNIX, type, 0, ends) != 0) {
      fail_errno("{}: making a unix socket", record.where());
    }
    UniqueFd fd(ends[0]);
    const UniqueFd peer(ends[1]);  // closed here: that is the hang-up
    set_status_flags(fd.get(), record);
    return fd;
  }
};

}  // namespace

const DescriptorKind& unix_socket_kind() {
  static const UnixSocketKind kind;
  return kind;
}

}  // namespace ckpt
