#include "engine/caller.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "engine/base/error.h"
#include "engine/base/record.h"
#include "engine/process/proc_limits.h"
#include "engine/process/procfs.h"

namespace ckpt {
namespace {

bool in_our_namespace(const std::string& proc_dir, const std::string& file) {
  return read_link(AT_FDCWD, proc_dir + "/ns/" + file) == read_link(AT_FDCWD, "/proc/self/ns/" + file);
}

bool in_our_user_namespace(const std::string& proc_dir) { return in_our_namespace(proc_dir, "user"); }

// Those that a process resumed by us would be let out of. The others (UTS, cgroup, time) keep nobody from anything.
std::string find_other_namespace(const std::string& proc_dir) {
  constexpr std::pair<const char*, const char*> kKinds[] = {
      {"user", "user"}, {"pid", "pid"}, {"mnt", "mount"}, {"net", "network"}, {"ipc", "IPC"}};
  for (const auto& [file, name] : kKinds) {
    if (!in_our_namespace(proc_dir, file)) return name;
  }
  return {};
}

std::array<rlim_t, RLIM_NLIMITS> read_hard_limits(const std::string& proc_dir) {
  const std::string path = proc_dir + "/limits";
  const std::string text = read_file(path);
  std::array<rlim_t, RLIM_NLIMITS> limits{};
  for (size_t i = 0; i < limits.size(); ++i) limits[i] = parse_limit(text, static_cast<int>(i), path).rlim_max;
  return limits;
}

uint64_t own_capabilities() {
  static const uint64_t caps = read_status(::getpid()).cap_effective;
  return caps;
}

bool has_capability(const Caller& caller, int cap) { return (caller.effective_caps >> cap & 1) != 0; }

// Mode of the Yama module, 0 where it is not there.
uint64_t yama_scope() {
  static const std::string path = "/proc/sys/kernel/yama/ptrace_scope";
  if (::access(path.c_str(), R_OK) != 0) return 0;
  const std::string text = read_file(path);
  return parse_u64(text.substr(0, text.find('\n'))).value_or(0);
}

bool is_descendant(pid_t pid, pid_t ancestor) {
  // A chain of parents that changes below us ends all the same: at init, or at a pid that is not there.
  for (int depth = 0; depth < 4096 && pid > 1; ++depth) {
    if (pid == ancestor) return true;
    try {
      pid = read_status(pid).ppid;
    } catch (const Error&) {
      return false;
    }
  }
  return false;
}

// A process that is not dumpable shows root as the owner of its files in /proc (task_dump_owner() in
// fs/proc/base.c).
bool dumpable(int proc_dir, const ProcStatus& status) {
  struct stat st {};
  return ::fstatat(proc_dir, "maps", &st, 0) == 0 && st.st_uid == status.uid[1] && st.st_gid == status.gid[1];
}

}  // namespace

bool Caller::privileged() const { return uid == 0 && (own_capabilities() & ~effective_caps) == 0; }

void Caller::limit_to(const Caller& other) {
  const auto has_group = [](const Caller& c, gid_t g) { return g == c.gid || std::ranges::count(c.groups, g) != 0; };
  if (uid != other.uid) fail(EPERM, "user {} may not act for user {}", other.uid, uid);
  if (!has_group(other, gid)) fail(EPERM, "group {} may not act for group {}", other.gid, gid);
  std::erase_if(groups, [&](gid_t group) { return !has_group(other, group); });
  effective_caps &= other.effective_caps;
  seen = seen && other.seen;
  no_new_privs = no_new_privs || other.no_new_privs;
  seccomp = seccomp || other.seccomp;
  bounding_caps &= other.bounding_caps;
  for (size_t i = 0; i < hard_limits.size(); ++i) hard_limits[i] = std::min(hard_limits[i], other.hard_limits[i]);
  if (other_namespace.empty()) other_namespace = other.other_namespace;
  if (label.empty()) label = other.label;
}

Caller Caller::self() { return of_request(::getpid(), ::geteuid(), ::getegid()); }

Caller Caller::of_request(pid_t tid, uid_t uid, gid_t gid) {
  Caller caller;
  caller.uid = uid;
  caller.gid = gid;
  try {
    const ProcStatus status = read_status(tid);
    caller.pid = status.tgid;
    caller.groups = status.groups;
    caller.no_new_privs = status.no_new_privs;
    caller.seccomp = status.seccomp != 0;
    caller.bounding_caps = status.cap_bounding;
    const std::string proc_dir = fmt::format("/proc/{}", tid);
    // Capabilities of another user namespace are worth nothing in ours.
    if (in_our_user_namespace(proc_dir)) caller.effective_caps = status.cap_effective;
    caller.other_namespace = find_other_namespace(proc_dir);
    caller.label = read_label(proc_dir);
    if (caller.label == read_label("/proc/self")) caller.label.clear();
    caller.hard_limits = read_hard_limits(proc_dir);
    caller.seen = true;
  } catch (const Error&) {
    // The requester has ended, or hides in a pid namespace that is not below ours: nothing beyond uid and gid
    // is granted.
  }
  return caller;
}

void check_may_checkpoint(const Caller& caller, pid_t pid) {
  const UniqueFd proc_dir = open_proc(pid);
  const ProcStatus status = read_status(pid);
  if (status.tgid == caller.pid || has_capability(caller, CAP_SYS_PTRACE)) return;
  const auto all_are = [](const auto& ids, auto id) {
    return std::all_of(ids.begin(), ids.begin() + 3, [id](auto other) { return other == id; });
  };
  if (!all_are(status.uid, caller.uid) || !all_are(status.gid, caller.gid)) {
    fail(EPERM, "{}: the process belongs to user {}, not to user {}", pid, status.uid[0], caller.uid);
  }
  if (!dumpable(proc_dir.get(), status))
    fail(EPERM, "{}: the process has made itself unreadable (not dumpable)", pid);
  if ((status.cap_permitted & ~caller.effective_caps) != 0) {
    fail(EPERM, "{}: the process has capabilities that user {} does not have", pid, caller.uid);
  }
  if (!in_our_user_namespace(fmt::format("/proc/{}", pid))) {
    fail(EPERM, "{}: the process is in a user namespace of its own", pid);
  }
  const uint64_t scope = yama_scope();
  if (scope >= 2 || (scope == 1 && !is_descendant(pid, caller.pid))) {
    fail(EPERM, "{}: kernel.yama.ptrace_scope = {} does not let user {} trace it", pid, scope, caller.uid);
  }
}

}  // namespace ckpt
