// The kernel module, ckpt(4): another way to a process than ptrace(2).
#pragma once

#include "engine/base/fd.h"

namespace ckpt {

/// The module's device, for its ioctls (kmod/ckpt_device.h). Throws Error: ENOENT where the module is not loaded, EACCES
/// where we may not use it, EPROTONOSUPPORT where it is of another version.
UniqueFd open_module();

/// Whether open_module() would succeed now.
bool module_serves() noexcept;

}  // namespace ckpt
