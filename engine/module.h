// The kernel module, ckpt(4): another way to a process than ptrace(2).
#pragma once

#include "engine/base/fd.h"
#include "engine/engine.h"

namespace ckpt {

/// The module's device, for its ioctls (kmod/ckpt_device.h). Throws Error: ENOENT where the module is not loaded, EACCES
/// where we may not use it, EPROTONOSUPPORT where it is of another version.
UniqueFd open_module();

/// The same for an engine that has been chosen: none where it is to do without, or may. Throws Error(EOPNOTSUPP), of process
/// `pid`, where the module is to serve and does not.
UniqueFd open_module_for(EngineChoice engine, pid_t pid);

/// Whether open_module() would succeed now.
bool module_serves() noexcept;

}  // namespace ckpt
