#include "engine/kinds/self_fd.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/statfs.h>

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

constexpr std::string_view kProc = "/proc/";

/// PID of "/proc/PID" or "/proc/PID/NAME", 0 for another path.
pid_t pid_in(std::string_view path) {
  if (!path.starts_with(kProc)) return 0;
  path.remove_prefix(kProc.size());
  const auto pid = parse_u64(path.substr(0, path.find('/')));
  return pid && *pid <= INT32_MAX ? static_cast<pid_t>(*pid) : 0;
}

/// Whether the part after the pid ("" for the directory itself) is one of kNames.
bool may_be_opened_again(std::string_view path) {
  const size_t slash = path.find('/', kProc.size());
  const std::string_view name = slash == path.npos ? "" : path.substr(slash + 1);
  return std::find(kNames.begin(), kNames.end(), name) != kNames.end();
}

/// The path in a record, which must be such a file of a process of the image.
std::string own_path(const RestoreContext& ctx, const Record& record) {
  const std::string path = record.get("path");
  if (!ctx.has_process(pid_in(path)) || !may_be_opened_again(path)) {
    fail(EINVAL, "{}: '{}' is not a file of the process in /proc", record.where(), escape(path));
  }
  return path;
}

class ProcKind : public DescriptorKind {
 public:
  const char* name() const override { return "proc"; }

  bool matches(const OpenFd& fd) const override {
    return fd.fs_type == "proc" && fd.target.starts_with(kProc) && fd.target.size() > kProc.size() &&
           std::isdigit(static_cast<unsigned char>(fd.target[kProc.size()])) != 0;
  }

  std::optional<std::string> refuse(const CaptureContext& ctx, const OpenFd& fd) const override {
    if (!ctx.has_process(pid_in(fd.target))) {
      return fmt::format("a file of another process ({}) cannot be checkpointed", fd.target);
    }
    if (may_be_opened_again(fd.target) && (fd.flags & O_ACCMODE) == O_RDONLY) return std::nullopt;
    return fmt::format("{}, opened {}, cannot be checkpointed", fd.target,
                       (fd.flags & O_ACCMODE) == O_RDONLY ? "for reading" : "for writing");
  }

  void capture(const CaptureContext&, const OpenFd&, Record&) const override {}

  UniqueFd restore(const RestoreContext& ctx, const Record& record) const override {
    own_path(ctx, record);
    return placeholder(record.where());
  }

  bool made_in_process() const override { return true; }
  bool may_be_queued() const override { return false; }

  void finish(const RestoreContext& ctx, const Record& record, int fd, Remote& leader) const override {
    const int flags = (open_flags(record) & ~O_ACCMODE) | O_RDONLY | O_NONBLOCK;
    const UniqueFd local = open_at(AT_FDCWD, own_path(ctx, record), flags & ~O_PATH);
    set_status_flags(local.get(), record);
    set_position(local.get(), record);
    ctx.place(local.get(), fd, (record.get_u64("flags", UINT32_MAX) & O_CLOEXEC) != 0, leader);
  }
};

}  // namespace

const DescriptorKind& proc_kind() {
  static const ProcKind kind;
  return kind;
}

}  // namespace ckpt
