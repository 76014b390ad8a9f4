#include "engine/kinds/unix_peek.h"

#include <linux/sockios.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include <cstring>
#include <optional>

#include "engine/base/error.h"
#include "engine/kinds/socket_options.h"
#include "engine/kinds/unix_name.h"
#include "engine/process/death_guard.h"

namespace ckpt {

namespace {

constexpr int kMaxPasses = 253;                  // SCM_MAX_FD
constexpr int kScmPidfd = 4;                     // SCM_PIDFD, Linux 6.5
constexpr size_t kDatagram = 256 << 10;
constexpr size_t kMaxQueue = 1 << 30;

/// Sets SO_PEEK_OFF, and what it was at the end, or at our death: the process would miss something when it looks.
class PeekOffset {
 public:
  explicit PeekOffset(int fd)
      : fd_(fd), before_(socket_option(fd, SOL_SOCKET, SO_PEEK_OFF).value_or(-1)), now_(before_ == -1 ? -1 : kMoved) {}
  PeekOffset(const PeekOffset&) = delete;
  PeekOffset& operator=(const PeekOffset&) = delete;
  ~PeekOffset() {
    if (guard_) setsockopt(fd_, SOL_SOCKET, SO_PEEK_OFF, &before_, sizeof before_);
  }
  /// -1: each look begins at the start of the queue.
  void set(int value) {
    if (value == now_) return;
    if (!guard_) {
      guard_.emplace(std::vector<DeathGuard::Call>{
          {SYS_setsockopt, {fd_, SOL_SOCKET, SO_PEEK_OFF, reinterpret_cast<long>(&before_), sizeof before_}}});
    }
    // A look moves it on, unless it is -1.
    now_ = value == -1 ? -1 : kMoved;
    if (setsockopt(fd_, SOL_SOCKET, SO_PEEK_OFF, &value, sizeof value) != 0) fail_errno("SO_PEEK_OFF {}", value);
  }

 private:
  static constexpr int kMoved = -2;
  int fd_;
  const int before_;
  int now_;
  std::optional<DeathGuard> guard_;
};

void read_control(msghdr& header, PeekedMessage& out) {
  for (cmsghdr* c = CMSG_FIRSTHDR(&header); c != nullptr; c = CMSG_NXTHDR(&header, c)) {
    const size_t size = c->cmsg_len - CMSG_LEN(0);
    if (c->cmsg_level != SOL_SOCKET) continue;
    if (c->cmsg_type == SCM_RIGHTS || c->cmsg_type == kScmPidfd) {
      std::vector<int> fds(size / sizeof(int));
      std::memcpy(fds.data(), CMSG_DATA(c), fds.size() * sizeof(int));
      for (const int fd : fds) {
        UniqueFd owned(fd);
        if (c->cmsg_type == SCM_RIGHTS) out.files.push_back(std::move(owned));
      }
    } else if (c->cmsg_type == SCM_CREDENTIALS && size >= sizeof(ucred)) {
      ucred cred = {};
      std::memcpy(&cred, CMSG_DATA(c), sizeof cred);
      // Nobody: it was sent before anybody asked for credentials.
      if (cred.pid != 0) out.record.cred = UnixCred{cred.pid, cred.uid, cred.gid, {}};
    }
  }
}

/// Looks at one message at the present SO_PEEK_OFF: nothing where the queue ends. Sets `truncated` where the buffer was
/// too small.
std::optional<PeekedMessage> peek_one(int fd, size_t room, bool& truncated) {
  PeekedMessage out;
  out.data.resize(room);
  sockaddr_un from = {};
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxPasses * sizeof(int)) + CMSG_SPACE(sizeof(ucred)) + CMSG_SPACE(256)];
  iovec piece = {out.data.data(), room};
  msghdr header = {};
  header.msg_name = &from;
  header.msg_namelen = sizeof from;
  header.msg_iov = &piece;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof control;
  const ssize_t n = recvmsg(fd, &header, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (n < 0 && (errno == EAGAIN || errno == ENOTCONN || errno == EINVAL)) return std::nullopt;
  if (n < 0) fail_errno("looking into a unix socket");
  read_control(header, out);
  if ((header.msg_flags & MSG_CTRUNC) != 0) fail(EMFILE, "looking into a unix socket: too many descriptors are under way");
  truncated = (header.msg_flags & MSG_TRUNC) != 0;
  out.data.resize(static_cast<size_t>(n));
  out.record.size = out.data.size();
  out.record.from = name_from(from, header.msg_namelen);
  return out;
}

size_t unread_bytes(int fd) {
  int unread = 0;
  return ::ioctl(fd, SIOCINQ, &unread) == 0 && unread > 0 ? static_cast<size_t>(unread) : 0;
}

/// Where in a run of `size` bytes, the last of which were sent with descriptors, those begin: they come with their first
/// byte. The kernel hands out a stream in the pieces that it was sent in, and a piece that does not fit into readable
/// memory is not handed out at all (unix_stream_read_generic in net/unix/af_unix.c): without room for the last byte, what
/// comes is all that was sent before.
size_t find_first_passed(int fd, PeekOffset& offset, size_t begin, size_t size) {
  std::string buffer(size, '\0');
  void* const nowhere = reinterpret_cast<void*>(1);  // below vm.mmap_min_addr, never mapped
  iovec pieces[] = {{buffer.data(), size - 1}, {nowhere, 1}};
  msghdr header = {};
  header.msg_iov = pieces;
  header.msg_iovlen = 2;
  offset.set(static_cast<int>(begin));
  const ssize_t n = recvmsg(fd, &header, MSG_PEEK | MSG_DONTWAIT);
  if (n < 0 && errno != EFAULT) fail_errno("looking into a unix socket");
  return n < 0 ? 0 : static_cast<size_t>(n);
}

std::vector<PeekedMessage> peek_stream(int fd, PeekOffset& offset) {
  std::vector<PeekedMessage> messages;
  const size_t total = unread_bytes(fd);
  for (size_t at = 0; at < total;) {
    offset.set(at == 0 ? -1 : static_cast<int>(at));  // most queues are one piece: then nothing of the socket changes
    bool truncated = false;
    auto message = peek_one(fd, total - at, truncated);
    if (!message || message->data.empty()) break;
    const size_t size = message->data.size();
    if (!message->files.empty() && size > 1) {
      if (const size_t plain = find_first_passed(fd, offset, at, size); plain != 0) {
        PeekedMessage before;
        before.data = message->data.substr(0, plain);
        before.record = {.size = plain, .cred = message->record.cred, .from = {}, .passes = {}};
        messages.push_back(std::move(before));
        message->data.erase(0, plain);
        message->record.size = message->data.size();
      }
    }
    message->record.from = {};  // a stream has only one sender
    messages.push_back(std::move(*message));
    at += size;
  }
  return messages;
}

bool ends(int fd) {
  pollfd state = {fd, POLLRDHUP, 0};
  return ::poll(&state, 1, 0) == 1 && (state.revents & POLLRDHUP) != 0;
}

std::vector<PeekedMessage> peek_packets(int fd, int type, PeekOffset& offset) {
  std::vector<PeekedMessage> messages;
  size_t room = kDatagram;
  for (size_t at = 0; at < kMaxQueue;) {
    // The first one without an offset, which would skip an empty one that somebody has looked at before.
    offset.set(messages.empty() ? -1 : static_cast<int>(at));
    bool truncated = false;
    auto message = peek_one(fd, room, truncated);
    if (!message) break;
    if (truncated) {
      room *= 4;
      continue;
    }
    // The end of a connection reads as an empty packet too.
    if (type == SOCK_SEQPACKET && message->data.empty() && at >= unread_bytes(fd) && ends(fd)) break;
    at += message->data.size();
    messages.push_back(std::move(*message));
  }
  return messages;
}

}  // namespace

std::vector<PeekedMessage> peek_queue(int fd, int type) {
  PeekOffset offset(fd);
  return type == SOCK_STREAM ? peek_stream(fd, offset) : peek_packets(fd, type, offset);
}

}  // namespace ckpt
