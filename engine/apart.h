// What a process, or a thread of it, has for itself alone although others of its kind have it in common: namespaces, and the
// directories, descriptors and semaphore adjustments of a thread. Found without stopping anybody.
#pragma once

#include <sys/types.h>

#include "engine/base/refusals.h"

namespace ckpt {

/// Other namespaces than ours: the process's, those of its threads (setns(2), unshare(2)), and those that its children would
/// be born into. `proc_dir` is its /proc/PID. Throws Error(EPERM, ESRCH).
void refuse_namespaces(pid_t pid, int proc_dir, Refusals& refusals);

/// Threads that share less with the main thread than those of pthread_create(3) do: unshare(2) with CLONE_FS, CLONE_FILES or
/// CLONE_SYSVSEM, which a thread may call for itself.
void refuse_unshared_threads(pid_t pid, int proc_dir, Refusals& refusals);

}  // namespace ckpt
