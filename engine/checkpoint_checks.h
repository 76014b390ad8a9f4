// What is refused before the process is disturbed: all of it is noted, so that nobody learns of it one a try.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <vector>

#include "engine/base/refusals.h"
#include "engine/image/maps.h"
#include "engine/kinds/family.h"
#include "engine/process/procfs.h"

namespace ckpt {

/// Refuses with EBUSY (traced) and EOPNOTSUPP (other namespaces, seccomp, a 32-bit program, a shadow stack); false where
/// it has. Throws Error for what is no process to look at: EINVAL (a kernel thread, this process), ESRCH (a zombie).
bool refuse_process(pid_t pid, int proc_dir, const ProcStatus& status, Refusals& refusals);

/// Throws Error(EBUSY) where a thread of the process has waited in vfork(2) for a second; EINTR when `cancel` is set.
void refuse_vfork(pid_t pid, int proc_dir, const std::atomic<bool>* cancel);

/// What the processes have in common (clone(2) with CLONE_VM, CLONE_FILES, CLONE_FS, CLONE_SIGHAND), the first that has it
/// being the owner. Refuses what they have in common with the parent of the first. Processes that
/// `run` may have their memory in common with it for the moment of a vfork(2).
std::map<pid_t, Sharing> sharing_of(const std::vector<pid_t>& pids, bool run, Refusals& refusals);

/// Throws Error(EOPNOTSUPP) where no order of clone(2) and setsid(2) makes these processes again. As plan_family().
void refuse_family(const std::vector<Relations>& members);

/// Refuses memory that has no content of its own to save: of a device, of io_setup(2),
/// secret, or watched by the process's own userfaultfd. `vmas` with their VmFlags. False where it has refused some.
bool refuse_mappings(pid_t pid, const std::vector<Vma>& vmas, Refusals& refusals);

}  // namespace ckpt
