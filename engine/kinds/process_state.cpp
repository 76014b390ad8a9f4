#include "engine/kinds/process_state.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <charconv>

#include "engine/base/error.h"
#include "engine/process/as_caller.h"
#include "engine/process/mounts.h"
#include "engine/process/proc_limits.h"
#include "engine/process/proc_status.h"
#include "engine/process/procfs.h"

namespace ckpt {

namespace {

std::string trimmed(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

void restore_limits(const RestoreContext& ctx) {
  const std::string path = ctx.prefix + "limits";
  const std::string text = ctx.image->read(path);
  for (int resource = 0; resource < static_cast<int>(RLIM_NLIMITS); ++resource) {
    const rlimit64 want = parse_limit(text, resource, path);
    rlimit64 have{};
    if (::prlimit64(ctx.pid, static_cast<__rlimit_resource>(resource), nullptr, &have) != 0) {
      fail_errno("{}: {}", ctx.pid, limit_name(resource));
    }
    if (have.rlim_cur == want.rlim_cur && have.rlim_max == want.rlim_max) continue;
    // We could raise it for anybody; the caller must be able to reach it himself.
    if (!ctx.caller.privileged() && want.rlim_max > ctx.caller.hard_limits[static_cast<size_t>(resource)]) {
      fail(EPERM, "{}: '{}' is above the caller's own hard limit", path, limit_name(resource));
    }
    if (::prlimit64(ctx.pid, static_cast<__rlimit_resource>(resource), &want, nullptr) != 0) {
      fail_errno("{}: '{}' cannot be set", path, limit_name(resource));
    }
  }
}

void restore_directories(const RestoreContext& ctx, Remote& leader) {
  const std::string root = ctx.image->read_link(ctx.prefix + "root");
  // Both are recorded as seen from the system's root, as the links in /proc are.
  const std::string cwd = ctx.image->read_link(ctx.prefix + "cwd");
  UniqueFd cwd_fd;
  {
    const AsCaller rights(ctx.caller);   // no way into a directory that is closed to him
    cwd_fd = open_at(AT_FDCWD, cwd, O_PATH | O_DIRECTORY);
  }
  if (root != "/") {
    if (!ctx.caller.privileged()) fail(EPERM, "{}: only root may resume a process in a chroot", ctx.image->describe());
    const UniqueFd root_fd = open_at(AT_FDCWD, root, O_PATH | O_DIRECTORY);
    const int there = ctx.give(root_fd.get());
    leader.call("fchdir", SYS_fchdir, static_cast<uint64_t>(there));
    leader.call("chroot", SYS_chroot, leader.put_string(".").addr);
    leader.call("close", SYS_close, static_cast<uint64_t>(there));
  }
  const int there = ctx.give(cwd_fd.get());
  leader.call("fchdir", SYS_fchdir, static_cast<uint64_t>(there));
  leader.call("close", SYS_close, static_cast<uint64_t>(there));
}

void write_proc_number(const RestoreContext& ctx, const char* name, const std::string& value) {
  const std::string path = fmt::format("/proc/{}/{}", ctx.pid, name);
  const std::string now = trimmed(read_file(path));
  if (now == value) return;
  const UniqueFd fd = open_at(AT_FDCWD, path, O_WRONLY);
  write_all(fd.get(), value, path);
}

/// The mount that a link in /proc/PID leads to, without asking whoever serves it.
std::optional<int> mount_of(int proc_dir, const char* name) {
  constexpr unsigned kMountId = 0x1000;  // STATX_MNT_ID, Linux 5.8
  struct statx stx {};
  if (::statx(proc_dir, name, AT_STATX_DONT_SYNC, kMountId, &stx) != 0 || (stx.stx_mask & kMountId) == 0) return std::nullopt;
  return static_cast<int>(stx.stx_mnt_id);
}

/// Of the group that the scheduler has made of its session (sched(7)): "/autogroup-25 nice 7". "0" where there is none.
std::string autogroup_nice(int proc_dir) {
  if (::faccessat(proc_dir, "autogroup", F_OK, 0) != 0) return "0";
  const auto words = split_words(trimmed(read_file(proc_dir, "autogroup")));
  return words.size() == 3 && words[1] == "nice" ? words[2] : "0";
}

void restore_autogroup(const RestoreContext& ctx, const Record& record) {
  const int64_t nice = record.has("autogroup_nice") ? record.get_i64("autogroup_nice") : 0;
  const std::string path = fmt::format("/proc/{}/autogroup", ctx.pid), text = std::to_string(nice);
  // A kernel without such groups does without.
  if (::access(path.c_str(), F_OK) != 0 || autogroup_nice(open_proc(ctx.pid).get()) == text) return;
  if (!ctx.caller.privileged() && nice < 0) {
    fail(EPERM, "{}: only root may resume a process with a negative autogroup_nice", record.where());
  }
  write_all(open_at(AT_FDCWD, path, O_WRONLY).get(), text, path);
}

constexpr Question kSubreaper{
    "prctl(PR_GET_CHILD_SUBREAPER)", SYS_prctl, {PR_GET_CHILD_SUBREAPER, Question::kAnswer}, sizeof(int32_t)};
constexpr Question kDumpable{"prctl(PR_GET_DUMPABLE)", SYS_prctl, {PR_GET_DUMPABLE}};

}  // namespace

void refuse_process_state(pid_t pid, int proc_dir) {
  for (const char* name : {"cwd", "root"}) {
    const char* const what = std::string_view(name) == "cwd" ? "working" : "root";
    const std::string target = read_link(proc_dir, name);
    struct stat st {};
    if (target.ends_with(" (deleted)") && ::fstatat(proc_dir, name, &st, 0) == 0 && st.st_nlink == 0) {
      fail(EOPNOTSUPP, "{}: its {} directory {} is deleted, which cannot be checkpointed", pid,
           what, target.substr(0, target.size() - 10));
    }
    const auto mount = mount_of(proc_dir, name);
    if (!mount || !target.starts_with('/') || (target == "/" && mount == mount_of(proc_dir, "root"))) continue;
    const char* const why = MountTable::now()->out_of_reach(*mount, target);
    if (why != nullptr && read_link(proc_dir, name) == target) {  // or it has changed its directory between the two
      fail(EOPNOTSUPP, "{}: its {} directory {} is {}, which cannot be checkpointed", pid, what, target, why);
    }
  }
}

void ask_process_state(const CaptureContext&, Questions& questions) {
  questions.ask(kDumpable);
  questions.ask(kSubreaper);
}

void capture_process_state(const CaptureContext& ctx, const Questions& answers) {
  Record out;
  out.add("umask", status_field(ctx.status, "Umask"));
  out.add("dumpable", int64_t{answers.good_result(kDumpable)});
  out.add("child_subreaper", answers.answer<int32_t>(kSubreaper));
  // Printed in hex without a prefix, but read as octal where it begins with 0 (fs/proc/base.c).
  out.add("coredump_filter", "0x" + trimmed(read_file(ctx.proc_dir, "coredump_filter")));
  out.add("oom_score_adj", trimmed(read_file(ctx.proc_dir, "oom_score_adj")));
  if (const std::string nice = autogroup_nice(ctx.proc_dir); nice != "0") out.add("autogroup_nice", nice);
  ctx.image->put(ctx.prefix + "process", out.text());
}

void restore_process_state(const RestoreContext& ctx, Remote& leader) {
  const std::string path = ctx.prefix + "process";
  const Record record = Record::parse(ctx.image->read(path), path);
  restore_directories(ctx, leader);

  const std::string umask = record.get("umask");
  unsigned mask = 0;
  const auto [end, err] = std::from_chars(umask.data(), umask.data() + umask.size(), mask, 8);
  if (err != std::errc{} || *end != '\0' || mask > 0777) fail(EINVAL, "{}: umask '{}' is not octal", path, umask);
  leader.call("umask", SYS_umask, mask);

  if (record.get_u64("child_subreaper", 1) == 1) {
    leader.call("prctl(PR_SET_CHILD_SUBREAPER)", SYS_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  }
  write_proc_number(ctx, "coredump_filter", fmt::format("{:#x}", record.get_u64("coredump_filter", UINT32_MAX)));
  const int64_t oom = record.get_i64("oom_score_adj");
  if (!ctx.caller.privileged() && oom < 0) {
    fail(EPERM, "{}: only root may resume a process with a negative oom_score_adj", path);
  }
  write_proc_number(ctx, "oom_score_adj", std::to_string(oom));
  restore_autogroup(ctx, record);
  restore_limits(ctx);
}

void restore_dumpable(const RestoreContext& ctx, Remote& leader) {
  const std::string path = ctx.prefix + "process";
  const Record record = Record::parse(ctx.image->read(path), path);
  const uint64_t dumpable = record.get_u64("dumpable", 2);
  // 2 (readable by root only) is given by the kernel alone; 0 protects as well and can be set (prctl(2)).
  leader.call("prctl(PR_SET_DUMPABLE)", SYS_prctl, PR_SET_DUMPABLE, dumpable == 1 ? 1 : 0, 0, 0, 0);
}

}  // namespace ckpt
