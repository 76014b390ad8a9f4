#include "engine/kinds/self_fd.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/statfs.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>

#include "engine/base/error.h"
#include "engine/kinds/fd_flags.h"
#include "engine/kinds/named_file.h"

namespace ckpt {

namespace {

// What may be opened again: no magic links (root, cwd, exe, fd/N lead elsewhere), nothing whose opening acts.
constexpr std::array kNames = {
    "",    "auxv",   "cgroup", "cmdline",   "comm",      "environ",       "fd",        "fdinfo", "io",
    "limits", "maps", "mountinfo", "mounts", "net",      "ns",            "numa_maps", "oom_score", "oom_score_adj",
    "schedstat", "smaps", "smaps_rollup", "stat", "statm", "status",      "task",      "wchan"};

/// The part of "/proc/PID/NAME" after the pid ("" for the directory itself), if it is one of kNames.
std::optional<std::string> own_name(std::string_view path, pid_t pid) {
  const std::string dir = fmt::format("/proc/{}", pid);
  if (!path.starts_with(dir)) return std::nullopt;
  path.remove_prefix(dir.size());
  if (!path.empty() && path[0] != '/') return std::nullopt;
  if (!path.empty()) path.remove_prefix(1);
  if (std::find(kNames.begin(), kNames.end(), path) == kNames.end()) return std::nullopt;
  return std::string(path);
}

UniqueFd placeholder(const Record& record) {
  UniqueFd fd(open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (!fd) fail_errno("{}: /dev/null", record.where());
  return fd;
}

/// Puts a descriptor of ours at number `fd` of the process.
void place(const RestoreContext& ctx, int local, const Record& record, int fd, Remote& leader) {
  const auto given = static_cast<uint64_t>(ctx.give(local));
  const uint64_t flags = record.get_u64("flags", UINT32_MAX) & O_CLOEXEC;
  leader.call("dup3", SYS_dup3, given, static_cast<uint64_t>(fd), flags);
  leader.call("close", SYS_close, given);
}

class ProcKind : public DescriptorKind {
 public:
  const char* name() const override { return "proc"; }

  bool matches(const OpenFd& fd) const override {
    constexpr std::string_view kProc = "/proc/";
    return fd.fs_type == "proc" && fd.target.starts_with(kProc) && fd.target.size() > kProc.size() &&
           std::isdigit(static_cast<unsigned char>(fd.target[kProc.size()])) != 0;
  }

  std::optional<std::string> refuse(const CaptureContext& ctx, const OpenFd& fd) const override {
    const bool own = fd.target == fmt::format("/proc/{}", ctx.pid) ||
                     fd.target.starts_with(fmt::format("/proc/{}/", ctx.pid));
    if (!own) return fmt::format("a file of another process ({}) cannot be checkpointed", fd.target);
    if (own_name(fd.target, ctx.pid) && (fd.flags & O_ACCMODE) == O_RDONLY) return std::nullopt;
    return fmt::format("{}, opened {}, cannot be checkpointed", fd.target,
                       (fd.flags & O_ACCMODE) == O_RDONLY ? "for reading" : "for writing");
  }

  void capture(const CaptureContext&, const OpenFd&, Record&) const override {}

  UniqueFd restore(const RestoreContext& ctx, const Record& record) const override {
    const std::string path = record.get("path");
    if (!own_name(path, ctx.pid)) {
      fail(EINVAL, "{}: '{}' is not a file of the process in /proc", record.where(), escape(path));
    }
    return placeholder(record);
  }

  bool made_in_process() const override { return true; }
  bool may_be_queued() const override { return false; }

  void finish(const RestoreContext& ctx, const Record& record, int fd, Remote& leader) const override {
    const auto name = own_name(record.get("path"), ctx.pid);
    if (!name) fail(EINVAL, "{}: the path is malformed", record.where());
    const std::string path = fmt::format("/proc/{}/{}", ctx.pid, *name);
    const int flags = (open_flags(record) & ~O_ACCMODE) | O_RDONLY | O_NONBLOCK;
    const UniqueFd local = open_at(AT_FDCWD, path, flags & ~O_PATH);
    set_status_flags(local.get(), record);
    set_position(local.get(), record);
    place(ctx, local.get(), record, fd, leader);
  }
};

class PidfdKind : public DescriptorKind {
 public:
  const char* name() const override { return "pidfd"; }

  bool matches(const OpenFd& fd) const override {
    return fd.target == "anon_inode:[pidfd]" || fd.target.starts_with("pidfd:[");
  }

  std::optional<std::string> refuse(const CaptureContext& ctx, const OpenFd& fd) const override {
    const auto pid = parse_i64(fd.info("Pid").value_or(""));
    if (!pid || *pid != ctx.pid) return "a pidfd of another process cannot be checkpointed";
    if ((fd.flags & O_EXCL) != 0) return "a pidfd of a single thread cannot be checkpointed";
    return std::nullopt;
  }

  void capture(const CaptureContext&, const OpenFd&, Record&) const override {}

  UniqueFd restore(const RestoreContext&, const Record& record) const override { return placeholder(record); }

  bool made_in_process() const override { return true; }
  bool may_be_queued() const override { return false; }

  void finish(const RestoreContext& ctx, const Record& record, int fd, Remote& leader) const override {
    const UniqueFd local(static_cast<int>(syscall(SYS_pidfd_open, ctx.pid, 0)));
    if (!local) fail_errno("{}: pidfd_open", record.where());
    set_status_flags(local.get(), record);
    place(ctx, local.get(), record, fd, leader);
  }
};

}  // namespace

const DescriptorKind& proc_kind() {
  static const ProcKind kind;
  return kind;
}

const DescriptorKind& pidfd_kind() {
  static const PidfdKind kind;
  return kind;
}

}  // namespace ckpt
