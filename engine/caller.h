// For whom the engine acts. A daemon that runs as root checkpoints and resumes for its callers with their rights,
// never with its own.
#pragma once

#include <sys/resource.h>
#include <sys/types.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace ckpt {

struct Caller {
  pid_t pid = 0;               ///< thread group id of the caller, 0 where unknown
  uid_t uid = 0;               ///< filesystem uid and gid
  gid_t gid = 0;
  std::vector<gid_t> groups;   ///< supplementary
  uint64_t effective_caps = 0; ///< in our user namespace; 0 for a plain user

  // What it has given up for good, and must not get back with a process that we make for it.
  bool seen = false;           ///< false where /proc tells nothing of it: what follows is not known then
  bool no_new_privs = false;
  bool seccomp = false;
  uint64_t bounding_caps = 0;
  std::array<rlim_t, RLIM_NLIMITS> hard_limits{};
  std::string label;           ///< that a security module confines it by (read_label), where it is not ours
  std::string other_namespace; ///< kind of the first one that is not ours ("mount"); empty where all are

  /// Root, without less capabilities than we have ourselves: the root of a container is not.
  bool privileged() const;
  bool in_group(gid_t group) const { return group == gid || std::ranges::find(groups, group) != groups.end(); }

  /// Leaves what `other` may do as well. Throws Error(EPERM) where it is another user, or does not have the group.
  void limit_to(const Caller& other);

  /// The calling process itself (for the command line tool).
  static Caller self();
  /// The process that made a request, from /proc/TID/status; uid and gid as the kernel reported them.
  static Caller of_request(pid_t tid, uid_t uid, gid_t gid);
};

/// The check of ptrace(2) (PTRACE_MODE_ATTACH_REALCREDS) made for `caller`, not for us: the same uid and gid triples
/// and a dumpable target, or CAP_SYS_PTRACE. Throws Error(EPERM, ESRCH) with a sentence.
void check_may_checkpoint(const Caller& caller, pid_t pid);

}  // namespace ckpt
