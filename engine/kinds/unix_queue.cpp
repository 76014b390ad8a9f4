#include "engine/kinds/unix_queue.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
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
#include "engine/kinds/unix_peek.h"

namespace ckpt {

namespace {

constexpr int kMaxPasses = 253;                  // SCM_MAX_FD

// ---- what is under way --------------------------------------------------------------------------------------------

class Search {
 public:
  explicit Search(const CaptureContext& ctx) : ctx_(ctx) {}

  std::shared_ptr<const QueuedDescriptors> run() {
    for (const std::vector<OpenFd>* table : ctx_.tree->tables) {
      for (const OpenFd& fd : *table) {
        if (fd.shares < 0 && is_unix_socket(fd)) look(ctx_.take(fd).get(), fd.st.st_ino);
      }
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

  /// "fd-3", "fd-1234:3" where a process has the same file description, else "queued-0".
  std::string word_for(UniqueFd file) {
    OpenFd info = read_own_fd(file.get());
    const auto [begin, end] = ctx_.tree->by_inode.equal_range({info.st.st_dev, info.st.st_ino});
    for (auto it = begin; it != end; ++it) {
      const OpenFd& other = *it->second;
      if (other.shares < 0 && same_description(other.pid, other.fd, ::getpid(), file.get())) {
        return other.pid == ctx_.tree->root ? fmt::format("fd-{}", other.fd) : fmt::format("fd-{}:{}", other.pid, other.fd);
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
    const size_t colon = word.find(':');
    const pid_t root = ctx.root != 0 ? ctx.root : ctx.pid;
    const std::optional<uint64_t> pid =
        colon == std::string::npos ? static_cast<uint64_t>(root) : parse_u64(word.substr(3, colon - 3));
    const auto number = parse_u64(word.substr(colon == std::string::npos ? 3 : colon + 1));
    const bool valid = pid && number && *pid <= INT32_MAX && *number <= INT32_MAX;
    const int fd = valid ? ctx.file_of(static_cast<pid_t>(*pid), static_cast<int>(*number)) : -1;
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
