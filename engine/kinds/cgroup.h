// Control groups, cgroups(7): which a process is in.
//
//   cgroup     as /proc/PID/cgroup
//
// A resumed process is put back into them with the caller's rights. Where one of them has gone, is frozen, or is not the
// caller's to use, it is in the caller's own in its place, as a program that he starts, and who asks is told.
#pragma once

#include "engine/kinds/kind.h"

namespace ckpt {

/// For a process that has just been made, before its threads and children are: they inherit its groups, and what it uses
/// from here on is charged there. Returns what could not be had ("it is not in the control group /a any more: ..."),
/// empty where all is as it was. Throws Error(EINVAL) where the image's file is malformed.
std::string restore_cgroups(const RestoreContext& ctx);

}  // namespace ckpt
