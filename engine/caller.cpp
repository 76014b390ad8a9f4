#include "engine/caller.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "engine/base/error.h"
#include "engine/base/record.h"
#include "engine/process/procfs.h"

namespace ckpt {
namespace {

bool in_our_user_namespace(const std::string& proc_dir) {
  return read_link(AT_FDCWD, proc_dir + "/ns/user") == read_link(AT_FDCWD, "/proc/self/ns/user");
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

Caller Caller::self() {
  Caller caller = of_request(::getpid(), ::geteuid(), ::getegid());
  return caller;
}

Caller Caller::of_request(pid_t tid, uid_t uid, gid_t gid) {
  Caller caller;
  caller.uid = uid;
  caller.gid = gid;
  try {
    const ProcStatus status = read_status(tid);
    caller.pid = status.tgid;
    caller.groups = status.groups;
    // Capabilities of another user namespace are worth nothing in ours.
    if (in_our_user_namespace(fmt::format("/proc/{}", tid))) caller.effective_caps = status.cap_effective;
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
