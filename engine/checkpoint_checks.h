// What is refused before the process is disturbed.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <vector>

#include "engine/image/maps.h"
#include "engine/process/procfs.h"

namespace ckpt {

/// Throws Error with a sentence: EINVAL (a kernel thread, this process), ESRCH (a zombie), EBUSY (traced),
/// EOPNOTSUPP (other namespaces, seccomp, a 32-bit program, a shadow stack).
void refuse_process(pid_t pid, int proc_dir, const ProcStatus& status);

/// Throws Error(EBUSY) where a thread of the process has waited in vfork(2) for a second; EINTR when `cancel` is set.
void refuse_vfork(pid_t pid, int proc_dir, const std::atomic<bool>* cancel);

/// Throws Error(EOPNOTSUPP) for two of the processes, or the first and its parent, that have their memory, descriptors,
/// directories or signal actions in common (clone(2) with CLONE_VM, CLONE_FILES, CLONE_FS, CLONE_SIGHAND). Processes that
/// `run` may have their memory in common for the moment of a vfork(2).
void refuse_sharing(const std::vector<pid_t>& pids, bool run);

/// Throws Error(EOPNOTSUPP) for memory that has no content of its own to save: of a device, of io_setup(2),
/// secret, or watched by the process's own userfaultfd. `vmas` with their VmFlags.
void refuse_mappings(pid_t pid, const std::vector<Vma>& vmas);

}  // namespace ckpt
