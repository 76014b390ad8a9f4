#include "engine/kinds/process_state.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <charconv>

#include "engine/base/error.h"
#include "engine/process/as_caller.h"
#include "engine/process/proc_limits.h"
#include "engine/process/proc_status.h"

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

constexpr Question kSubreaper{
    "prctl(PR_GET_CHILD_SUBREAPER)", SYS_prctl, {PR_GET_CHILD_SUBREAPER, Question::kAnswer}, sizeof(int32_t)};
constexpr Question kDumpable{"prctl(PR_GET_DUMPABLE)", SYS_prctl, {PR_GET_DUMPABLE}};

}  // namespace

void refuse_process_state(pid_t pid, int proc_dir) {
  for (const char* name : {"cwd", "root"}) {
    const std::string target = read_link(proc_dir, name);
    struct stat st {};
    if (target.ends_with(" (deleted)") && ::fstatat(proc_dir, name, &st, 0) == 0 && st.st_nlink == 0) {
      fail(EOPNOTSUPP, "{}: its {} directory {} is deleted, which cannot be checkpointed", pid,
           std::string_view(name) == "cwd" ? "working" : "root", target.substr(0, target.size() - 10));
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
