#include "engine/kinds/pidfd.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "engine/base/error.h"
#include "engine/kinds/fd_flags.h"
#include "engine/process/bare.h"
#include "engine/process/procfs.h"

namespace ckpt {

namespace {

constexpr unsigned kThread = O_EXCL;  // PIDFD_THREAD, include/uapi/linux/pidfd.h

std::string boot_id() {
  std::string id = read_file("/proc/sys/kernel/random/boot_id");
  while (id.ends_with('\n')) id.pop_back();
  return id;
}

UniqueFd open_pidfd(pid_t pid, bool thread) {
  return UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, pid, thread ? kThread : 0)));
}

CKPT_BARE void end_at_once(void*) { raw_call(SYS_exit_group, 0); }

/// Of a child that has ended and been waited for.
UniqueFd open_ended(bool thread, const std::string& where) {
  alignas(16) char stack[4096];
  clone_args args = {};
  args.flags = CLONE_VM | CLONE_VFORK | CLONE_CLEAR_SIGHAND;  // and no signal tells of its end
  args.stack = reinterpret_cast<uint64_t>(stack);
  args.stack_size = sizeof stack;
  const long child = clone_and_call(args, end_at_once, nullptr);
  if (child < 0) fail(static_cast<int>(-child), "{}: clone3: {}", where, errno_text(static_cast<int>(-child)));
  UniqueFd fd = open_pidfd(static_cast<pid_t>(child), thread);
  const int err = errno;
  while (waitpid(static_cast<pid_t>(child), nullptr, __WALL) < 0 && errno == EINTR) {
  }
  errno = err;
  if (!fd) fail_errno("{}: pidfd_open of an ended process", where);
  return fd;
}

bool has_ended(int pidfd) {
  pollfd poll_fd = {pidfd, POLLIN, 0};
  return poll(&poll_fd, 1, 0) != 0;
}

/// The process outside the image that the record means; none where it does not run any more.
UniqueFd open_outsider(const Record& record, pid_t pid, bool thread) {
  const uint64_t start = record.get_u64("start");
  if (record.get("boot") != boot_id()) return {};
  UniqueFd fd = open_pidfd(pid, thread);
  if (!fd) return {};
  try {
    // Looked at after it was opened, and before it is known to run on: nobody else can have had the number between.
    if (start_ticks(pid) != start || has_ended(fd.get())) return {};
  } catch (const Error&) {
    return {};
  }
  return fd;
}

class PidfdKind : public DescriptorKind {
 public:
  const char* name() const override { return "pidfd"; }

  bool matches(const OpenFd& fd) const override {
    return fd.target == "anon_inode:[pidfd]" || fd.target.starts_with("pidfd:[");
  }

  std::optional<std::string> refuse(const CaptureContext&, const OpenFd& fd) const override {
    const auto pid = parse_i64(fd.info("Pid").value_or(""));
    if (!pid) return "a pidfd whose process cannot be told cannot be checkpointed";
    if (*pid == 0) return "a pidfd of a process in another pid namespace cannot be checkpointed";
    return std::nullopt;
  }

  void capture(const CaptureContext& ctx, const OpenFd& fd, Record& out) const override {
    const auto pid = static_cast<pid_t>(parse_i64(fd.info("Pid").value_or("")).value_or(0));
    const bool thread = (fd.flags & kThread) != 0;
    if (thread) out.add("thread", 1);
    if (pid <= 0) {
      out.add("ended", 1);
      return;
    }
    if (pid != ctx.pid) out.add("pid", pid);
    if (thread ? ctx.has_thread(pid) : ctx.has_process(pid)) return;
    out.add("boot", boot_id());
    out.add("start", start_ticks(pid));
  }

  UniqueFd restore(const RestoreContext& ctx, const Record& record) const override {
    if (record.has("ended") || record.has("boot")) return placeholder(record.where());
    const pid_t pid = pid_of(ctx, record);
    if (!(is_thread(record) ? ctx.has_thread(pid) : ctx.has_process(pid))) {
      fail(EPERM, "{}: process {} is not in the image", record.where(), pid);
    }
    return placeholder(record.where());
  }

  bool made_in_process() const override { return true; }
  bool may_be_queued() const override { return false; }

  void finish(const RestoreContext& ctx, const Record& record, int fd, Remote& leader) const override {
    const UniqueFd local = open_again(ctx, record);
    set_status_flags(local.get(), record);
    ctx.place(local.get(), fd, (record.get_u64("flags", UINT32_MAX) & O_CLOEXEC) != 0, leader);
  }

 private:
  static bool is_thread(const Record& record) { return record.get_u64_or("thread", 0) != 0; }

  static pid_t pid_of(const RestoreContext& ctx, const Record& record) {
    return static_cast<pid_t>(record.get_u64_or("pid", static_cast<uint64_t>(ctx.pid)));
  }

  static UniqueFd open_again(const RestoreContext& ctx, const Record& record) {
    const bool thread = is_thread(record);
    if (record.get_u64_or("ended", 0) != 0) return open_ended(thread, record.where());
    const pid_t pid = pid_of(ctx, record);
    if (record.has("boot")) {
      UniqueFd fd = open_outsider(record, pid, thread);
      return fd ? std::move(fd) : open_ended(thread, record.where());
    }
    UniqueFd fd = open_pidfd(pid, thread);
    if (!fd) fail_errno("{}: pidfd_open", record.where());
    return fd;
  }
};

}  // namespace

const DescriptorKind& pidfd_kind() {
  static const PidfdKind kind;
  return kind;
}

}  // namespace ckpt
