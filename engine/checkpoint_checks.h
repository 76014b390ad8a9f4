// What is refused before the process is disturbed.
#pragma once

#include <sys/types.h>

#include <vector>

#include "engine/image/maps.h"
#include "engine/process/procfs.h"

namespace ckpt {

/// Throws Error with a sentence: EINVAL (a kernel thread, this process), ESRCH (a zombie), EBUSY (traced),
/// EOPNOTSUPP (children, other namespaces, seccomp, a 32-bit program, a shadow stack).
void refuse_process(pid_t pid, int proc_dir, const ProcStatus& status);

/// Throws Error(EOPNOTSUPP) for memory that has no content of its own to save: of a device, of io_setup(2),
/// secret, or watched by the process's own userfaultfd. `vmas` with their VmFlags.
void refuse_mappings(pid_t pid, const std::vector<Vma>& vmas);

}  // namespace ckpt
