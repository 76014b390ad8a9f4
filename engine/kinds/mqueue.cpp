#include "engine/kinds/mqueue.h"

#include <fcntl.h>
#include <mqueue.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include <algorithm>
#include <array>

#include "engine/base/error.h"
#include "engine/kinds/fd_flags.h"
#include "engine/kinds/named_file.h"

namespace ckpt {

namespace {

constexpr long kMagic = 0x19800202;   // MQUEUE_MAGIC in ipc/mqueue.c
constexpr off_t kStateSize = 80;      // FILENT_SIZE, st_size of every queue
constexpr uint64_t kMaxMessages = 65536, kMaxMessageSize = 16 << 20;  // HARD_MSGMAX, HARD_MSGSIZEMAX

bool is_queue(int fd) {
  struct statfs fs = {};
  return fstatfs(fd, &fs) == 0 && fs.f_type == kMagic;
}

/// The process that is to be told of a message, 0 for none: "QSIZE:129  NOTIFY:2  SIGNO:0  NOTIFY_PID:8260".
pid_t notified(int queue, const std::string& where) {
  const UniqueFd readable(open(fmt::format("/proc/self/fd/{}", queue).c_str(), O_RDONLY | O_CLOEXEC));
  std::array<char, 2 * kStateSize> text = {};
  const ssize_t n = readable ? pread(readable.get(), text.data(), text.size() - 1, 0) : -1;
  if (n < 0) fail_errno("{}: reading the state of the queue", where);
  const std::string state(text.data(), static_cast<size_t>(n));
  constexpr std::string_view kField = "NOTIFY_PID:";
  const size_t at = state.find(kField);
  return at == std::string::npos ? 0 : std::atoi(state.c_str() + at + kField.size());
}

mq_attr attributes(int queue, const std::string& where) {
  mq_attr attr = {};
  if (mq_getattr(queue, &attr) != 0) fail_errno("{}: mq_getattr", where);
  return attr;
}

std::string queue_name(const Record& record) {
  const std::string name = record.get("queue");
  if (name.size() < 2 || name[0] != '/' || name.find('/', 1) != std::string::npos || name.find('\0') != std::string::npos) {
    fail(EINVAL, "{}: '{}' cannot be the name of a message queue", record.where(), escape(name));
  }
  return name;
}

/// A queue that was empty, again. A failed resume takes it away.
UniqueFd make_queue(const RestoreContext& ctx, const Record& record, const std::string& name, int flags) {
  mq_attr attr = {};
  attr.mq_maxmsg = static_cast<long>(record.get_u64("max_messages", kMaxMessages));
  attr.mq_msgsize = static_cast<long>(record.get_u64("message_size", kMaxMessageSize));
  // The system call wants the name without its slash (mq_overview(7)).
  if (ctx.traces != nullptr) ctx.traces->guard({SYS_mq_unlink, {ctx.traces->keep(name.substr(1))}});
  UniqueFd queue(mq_open(name.c_str(), flags | O_CREAT | O_EXCL, 0600, &attr));
  if (!queue) fail_errno("{}: making the message queue {}", record.where(), name);
  if (ctx.traces != nullptr) ctx.traces->made([name] { mq_unlink(name.c_str()); });
  set_owner_and_mode(ctx, queue.get(), record);
  return queue;
}

class MqueueKind : public DescriptorKind {
 public:
  const char* name() const override { return "mqueue"; }

  /// Its mount is the kernel's own, in no table of mounts, unless it was opened as a file.
  bool matches(const OpenFd& fd) const override {
    if (!S_ISREG(fd.st.st_mode) || major(fd.st.st_dev) != 0 || !fd.target.starts_with('/')) return false;
    if (fd.fs_type == "mqueue") return true;
    return fd.fs_type.empty() && fd.st.st_size == kStateSize && fd.target.find('/', 1) == std::string::npos &&
           !fd.target.starts_with("/memfd:");
  }

  std::optional<std::string> refuse(const CaptureContext& ctx, const OpenFd& fd) const override {
    const UniqueFd queue = ctx.take(fd.fd);
    if (fd.fs_type == "mqueue") return fmt::format("a message queue opened as a file ({}) cannot be checkpointed", fd.target);
    if (!is_queue(queue.get())) return fmt::format("a file of no mount ({}) cannot be checkpointed", fd.target);
    if (fd.st.st_nlink == 0) return fmt::format("a message queue without a name ({}) cannot be checkpointed", fd.target);
    if (const pid_t pid = notified(queue.get(), fd.target); pid != 0 && ctx.has_process(pid)) {
      return fmt::format("a message queue that is to tell process {} of messages ({}) cannot be checkpointed", pid, fd.target);
    }
    return std::nullopt;
  }

  void capture(const CaptureContext& ctx, const OpenFd& fd, Record& out) const override {
    const mq_attr attr = attributes(ctx.take(fd.fd).get(), fmt::format("{}: fd {}", ctx.pid, fd.fd));
    out.add("queue", fd.target);
    out.add("max_messages", attr.mq_maxmsg);
    out.add("message_size", attr.mq_msgsize);
    out.add("messages", attr.mq_curmsgs);
    out.add("mode", fmt::format("{:#08o}", fd.st.st_mode));
    out.add("uid", fd.st.st_uid);
    out.add("gid", fd.st.st_gid);
  }

  UniqueFd restore(const RestoreContext& ctx, const Record& record) const override {
    const std::string name = queue_name(record);
    const int flags = open_flags(record) & (O_ACCMODE | O_NONBLOCK | O_CLOEXEC);
    UniqueFd queue(mq_open(name.c_str(), flags));
    const uint64_t messages = record.get_u64("messages", kMaxMessages);
    if (!queue && errno == ENOENT && messages == 0) queue = make_queue(ctx, record, name, flags);
    if (!queue) fail_errno("{}: the message queue {}, which had {} messages", record.where(), name, messages);
    const mq_attr attr = attributes(queue.get(), record.where());
    if (static_cast<uint64_t>(attr.mq_maxmsg) != record.get_u64("max_messages") ||
        static_cast<uint64_t>(attr.mq_msgsize) != record.get_u64("message_size")) {
      fail(ESTALE, "{}: the message queue {} is another one: of {} messages of {} bytes", record.where(), name,
           attr.mq_maxmsg, attr.mq_msgsize);
    }
    return queue;
  }
};

}  // namespace

const DescriptorKind& mqueue_kind() {
  static const MqueueKind kind;
  return kind;
}

}  // namespace ckpt
