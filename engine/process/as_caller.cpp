#include "engine/process/as_caller.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>

#include "engine/base/error.h"

namespace ckpt {

namespace {

// The raw calls change the calling thread alone; glibc's setgroups() changes all threads of the process.
uid_t set_fsuid(uid_t uid) { return static_cast<uid_t>(syscall(SYS_setfsuid, uid)); }
gid_t set_fsgid(gid_t gid) { return static_cast<gid_t>(syscall(SYS_setfsgid, gid)); }
bool set_groups(const std::vector<gid_t>& groups) {
  return syscall(SYS_setgroups, groups.size(), groups.data()) == 0;
}

// With pid 0 both calls are about the calling thread.
bool capabilities(long nr, __user_cap_data_struct* data) {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  return syscall(nr, &header, data) == 0;
}

constexpr uid_t kAsk = ~uid_t{0};   // no valid id: the call changes nothing and tells the present one

}  // namespace

AsCaller::AsCaller(const Caller& caller) {
  if (caller.privileged()) return;
  uid_ = set_fsuid(kAsk);
  gid_ = set_fsgid(kAsk);
  if (uid_ == caller.uid && geteuid() != 0) return;      // we are the caller, with no rights beyond his
  const long n = syscall(SYS_getgroups, 0, nullptr);
  groups_.resize(n > 0 ? static_cast<size_t>(n) : 0);
  if (n > 0 && syscall(SYS_getgroups, groups_.size(), groups_.data()) != n) fail_errno("getgroups");
  if (!capabilities(SYS_capget, capabilities_.data())) fail_errno("capget");
  if (!set_groups(caller.groups)) fail_errno("taking the groups of uid {}", caller.uid);
  changed_ = true;
  set_fsgid(caller.gid);
  set_fsuid(caller.uid);
  auto none = capabilities_;
  for (auto& half : none) half.effective = 0;
  if (set_fsgid(kAsk) == caller.gid && set_fsuid(kAsk) == caller.uid && capabilities(SYS_capset, none.data())) return;
  set_fsuid(uid_);
  set_fsgid(gid_);
  if (!set_groups(groups_)) abort();
  fail(EPERM, "the rights of uid {} to files could not be taken", caller.uid);
}

AsCaller::~AsCaller() {
  if (!changed_) return;
  const bool capable = capabilities(SYS_capset, capabilities_.data());  // first: the groups need CAP_SETGID
  set_fsuid(uid_);
  set_fsgid(gid_);
  // A thread of the daemon must not go on with somebody else's rights, or with too few.
  if (!capable || !set_groups(groups_) || set_fsuid(kAsk) != uid_) abort();
}

}  // namespace ckpt
