// Threads that wait in vfork(2), or in a clone(2) with CLONE_VFORK (posix_spawn(3) makes one).
#pragma once

#include <sys/types.h>

namespace ckpt {

/// Whether the thread waits for a child that runs in its memory, to end or to become another program: the kernel lets
/// nobody stop it meanwhile (wait_for_vfork_done() in kernel/fork.c). False where that cannot be seen. `proc_dir` is
/// /proc/PID of its process.
bool waits_in_vfork(int proc_dir, pid_t tid);

/// The first thread of the process that does, 0 for none.
pid_t thread_in_vfork(int proc_dir);

}  // namespace ckpt
