// The rights to files of somebody else, taken by one thread for a while.
#pragma once

#include <linux/capability.h>

#include <array>
#include <vector>

#include "engine/caller.h"

namespace ckpt {

/// While it lives, the calling thread (no other) opens and makes files as `caller` would: filesystem uid and gid,
/// supplementary groups, and without any effective capability: setfsuid(2) takes away only those that pass over file
/// permissions, but what a file shows may depend on others of its opener (/proc/kallsyms on CAP_SYSLOG). For a
/// privileged caller, and where we are the caller, it does nothing. Must be destroyed by the thread that made it.
class AsCaller {
 public:
  /// Throws Error(EPERM) where we cannot act for somebody else.
  explicit AsCaller(const Caller& caller);
  AsCaller(const AsCaller&) = delete;
  AsCaller& operator=(const AsCaller&) = delete;
  ~AsCaller();

 private:
  bool changed_ = false;
  uid_t uid_ = 0;
  gid_t gid_ = 0;
  std::vector<gid_t> groups_;
  std::array<__user_cap_data_struct, 2> capabilities_{};
};

}  // namespace ckpt
