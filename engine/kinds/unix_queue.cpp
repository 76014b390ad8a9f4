#include "engine/kinds/unix_queue.h"

#include <fcntl.h>
#include <linux/sockios.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include <algorithm>
#include <cstring>

#include "engine/base/error.h"
#include "engine/kinds/locks.h"
#include "engine/kinds/socket_options.h"
#include "engine/kinds/unix_name.h"

namespace ckpt {

namespace {

constexpr int kMaxPasses = 253;                  // SCM_MAX_FD
constexpr int kScmPidfd = 4;                     // SCM_PIDFD, Linux 6.5
constexpr size_t kDatagram = 256 << 10;
constexpr size_t kMaxQueue = 1 << 30;

/// Sets SO_PEEK_OFF, and what it was at the end.
class PeekOffset {
 public:
  explicit PeekOffset(int fd) : fd_(fd), before_(socket_option(fd, SOL_SOCKET, SO_PEEK_OFF).value_or(-1)) {}
  PeekOffset(const PeekOffset&) = delete;
  PeekOffset& operator=(const PeekOffset&) = delete;
  ~PeekOffset() { setsockopt(fd_, SOL_SOCKET, SO_PEEK_OFF, &before_, sizeof before_); }
  void set(int value) const {
    if (setsockopt(fd_, SOL_SOCKET, SO_PEEK_OFF, &value, sizeof value) != 0) fail_errno("SO_PEEK_OFF {}", value);
  }

 private:
  int fd_;
  int before_;
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
size_t find_first_passed(int fd, const PeekOffset& offset, size_t begin, size_t size) {
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

std::vector<PeekedMessage> peek_stream(int fd, const PeekOffset& offset) {
  std::vector<PeekedMessage> messages;
  const size_t total = unread_bytes(fd);
  for (size_t at = 0; at < total;) {
    offset.set(static_cast<int>(at));
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

std::vector<PeekedMessage> peek_packets(int fd, int type, const PeekOffset& offset) {
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

// ---- what is under way --------------------------------------------------------------------------------------------

class Search {
 public:
  explicit Search(const CaptureContext& ctx) : ctx_(ctx) {}

  std::shared_ptr<const QueuedDescriptors> run() {
    for (const OpenFd& fd : *ctx_.fds) {
      if (fd.shares < 0 && is_unix_socket(fd)) look(ctx_.take(fd.fd).get(), fd.st.st_ino);
    }
    // Sockets that were found have queues of their own; the list grows meanwhile.
    for (size_t i = 0; i < found_->files.size(); ++i) {
      if (is_unix_socket(found_->infos[i])) look(found_->files[i].get(), found_->infos[i].st.st_ino);
    }
    return found_;
  }

 private:
  void look(int fd, ino_t inode) {
    if (found_->queues.contains(inode)) return;
    auto& queue = found_->queues[inode];
    const int type = socket_option(fd, SOL_SOCKET, SO_TYPE).value_or(0);
    for (PeekedMessage& message : peek_queue(fd, type)) {
      for (UniqueFd& file : message.files) message.record.passes.push_back(word_for(std::move(file)));
      queue.data += message.data;
      queue.messages.push_back(std::move(message.record));
    }
  }

  /// "fd-3" where the process has the same file description, else "queued-0".
  std::string word_for(UniqueFd file) {
    OpenFd info = read_own_fd(file.get());
    const auto [begin, end] = ctx_.fds_by_inode.equal_range({info.st.st_dev, info.st.st_ino});
    for (auto it = begin; it != end; ++it) {
      const OpenFd& other = *it->second;
      if (other.shares < 0 && same_description(ctx_.pid, other.fd, ::getpid(), file.get())) {
        return fmt::format("fd-{}", other.fd);
      }
    }
    for (size_t i = 0; i < found_->files.size(); ++i) {
      const OpenFd& other = found_->infos[i];
      if (other.st.st_ino == info.st.st_ino && other.st.st_dev == info.st.st_dev &&
          same_description(::getpid(), found_->files[i].get(), ::getpid(), file.get())) {
        return fmt::format("queued-{}", i);
      }
    }
    check(info);
    found_->files.push_back(std::move(file));
    found_->infos.push_back(std::move(info));
    return fmt::format("queued-{}", found_->files.size() - 1);
  }

  void check(const OpenFd& info) const {
    const DescriptorKind& kind = kind_of(info);
    const bool in_chroot = info.target.starts_with('/') && read_link(ctx_.proc_dir, "root") != "/";
    if (kind.may_be_queued() && (info.flags & O_ASYNC) == 0 && !in_chroot) return;
    fail(EOPNOTSUPP, "{}: a descriptor ({}) that is under way in a unix socket and would be of the kind '{}' cannot be checkpointed",
         ctx_.pid, info.target, kind.name());
  }

  const CaptureContext& ctx_;
  std::shared_ptr<QueuedDescriptors> found_ = std::make_shared<QueuedDescriptors>();
};

// ---- putting it back ----------------------------------------------------------------------------------------------

Record queued_record(const RestoreContext& ctx, const std::string& object, const std::string& where) {
  const std::string path = "objects/" + object;
  if (!ctx.image->has(path)) fail(EINVAL, "{}: {} is not in the image", where, object);
  return Record::parse(ctx.image->read(path, 1 << 20), ctx.image->describe() + "/" + path);
}

void check_cred(const RestoreContext& ctx, const UnixCred& cred, const std::string& where) {
  if (ctx.caller.privileged() || (cred.uid == ctx.caller.uid && ctx.caller.in_group(cred.gid))) return;
  fail(EPERM, "{}: only root may send a message again that uid {} and gid {} have sent", where, cred.uid, cred.gid);
}

}  // namespace

bool is_unix_socket(const OpenFd& fd) { return S_ISSOCK(fd.st.st_mode) && fd.info("scm_fds").has_value(); }

bool has_unread(int fd) {
  pollfd state = {fd, POLLIN, 0};
  return ::poll(&state, 1, 0) == 1 && (state.revents & POLLIN) != 0;
}

std::vector<PeekedMessage> peek_queue(int fd, int type) {
  const PeekOffset offset(fd);
  return type == SOCK_STREAM ? peek_stream(fd, offset) : peek_packets(fd, type, offset);
}

std::shared_ptr<const QueuedDescriptors> find_queued_descriptors(const CaptureContext& ctx) { return Search(ctx).run(); }

void restore_queued(const RestoreContext& ctx, const std::string& object) {
  if (ctx.objects->contains(object)) return;
  const Record record = queued_record(ctx, object, ctx.image->describe());
  const DescriptorKind& kind = kind_named(record.get("type"), record.where());
  if (!kind.may_be_queued()) fail(EINVAL, "{}: the type '{}' cannot be under way in a socket", record.where(), kind.name());
  // Before it is made: what it leads to may lead back to it.
  UniqueFd& made = (*ctx.objects)[object];
  made = kind.restore(ctx, record);
  if (!kind.completed_later()) restore_locks(made.get(), record);
}

int complete_queued(const RestoreContext& ctx, const std::string& word, const std::string& where) {
  if (word.starts_with("fd-")) {
    const auto number = parse_u64(word.substr(3));
    const int fd = number && *number <= INT32_MAX ? ctx.file_of(static_cast<int>(*number)) : -1;
    if (fd < 0) fail(EINVAL, "{}: {} is not in the image", where, word);
    return fd;
  }
  const auto made = ctx.objects->find(word);
  if (made == ctx.objects->end()) fail(EINVAL, "{}: {} is not in the image", where, word);
  const Record record = queued_record(ctx, word, where);
  const DescriptorKind& kind = kind_named(record.get("type"), record.where());
  if (!kind.completed_later()) return made->second.get();
  UniqueFd& complete = (*ctx.objects)[word + ".complete"];
  if (!complete) complete = kind.complete(ctx, record);
  return complete.get();
}

void send_again(const RestoreContext& ctx, int fd, const UnixMessage& message, std::string_view data, const UnixName& to,
                const std::string& where) {
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxPasses * sizeof(int)) + CMSG_SPACE(sizeof(ucred))] = {};
  sockaddr_un address = {};
  iovec piece = {const_cast<char*>(data.data()), data.size()};
  msghdr header = {};
  header.msg_iov = &piece;
  header.msg_iovlen = 1;
  if (!to.empty()) {
    header.msg_name = &address;
    header.msg_namelen = address_of(to, address);
  }
  size_t used = 0;
  const auto add = [&](int type, const void* content, size_t size) {
    auto* c = reinterpret_cast<cmsghdr*>(control + used);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = type;
    c->cmsg_len = CMSG_LEN(size);
    std::memcpy(CMSG_DATA(c), content, size);
    used += CMSG_SPACE(size);
  };
  if (message.cred) {
    check_cred(ctx, *message.cred, where);
    const bool there = ::kill(message.cred->pid, 0) == 0 || errno != ESRCH;
    const ucred cred = {there ? message.cred->pid : ctx.pid, message.cred->uid, message.cred->gid};
    add(SCM_CREDENTIALS, &cred, sizeof cred);
  }
  std::vector<int> files;
  for (const std::string& word : message.passes) files.push_back(complete_queued(ctx, word, where));
  if (!files.empty()) add(SCM_RIGHTS, files.data(), files.size() * sizeof(int));
  if (used != 0) {
    header.msg_control = control;
    header.msg_controllen = used;
  }
  for (;;) {
    const ssize_t n = sendmsg(fd, &header, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_errno("{}: sending {} queued bytes again", where, data.size());
    const auto sent = static_cast<size_t>(n);
    if (sent == piece.iov_len) return;
    // Only a stream takes a part; descriptors go with the first byte.
    piece = {static_cast<char*>(piece.iov_base) + sent, piece.iov_len - sent};
    header.msg_control = nullptr;
    header.msg_controllen = 0;
  }
}

}  // namespace ckpt
