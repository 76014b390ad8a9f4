// What is refused before the process is disturbed: all of it is noted, so that nobody learns of it one a try.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <vector>

#include "engine/base/refusals.h"
#include "engine/image/maps.h"
#include "engine/process/procfs.h"

namespace ckpt {

/// Refuses with EBUSY (traced) and EOPNOTSUPP (other namespaces, seccomp, a 32-bit program, a shadow stack); false where
/// it has. Throws Error for what is no process to look at: EINVAL (a kernel thread, this process), ESRCH (a zombie).
bool refuse_process(pid_t pid, int proc_dir, const ProcStatus& status, Refusals& refusals);

/// Throws Error(EBUSY) where a thread of the process has waited in vfork(2) for a second; EINTR when `cancel` is set.
void refuse_vfork(pid_t pid, int proc_dir, const std::atomic<bool>* cancel);

/// Refuses two of the processes, or the first and its parent, that have their memory, descriptors,
/// directories or signal actions in common (clone(2) with CLONE_VM, CLONE_FILES, CLONE_FS, CLONE_SIGHAND). Processes that
/// `run` may have their memory in common for the moment of a vfork(2).
void refuse_sharing(const std::vector<pid_t>& pids, bool run, Refusals& refusals);

/// Refuses memory that has no content of its own to save: of a device, of io_setup(2),
/// secret, or watched by the process's own userfaultfd. `vmas` with their VmFlags. False where it has refused some.
bool refuse_mappings(pid_t pid, const std::vector<Vma>& vmas, Refusals& refusals);

}  // namespace ckpt
