// System V semaphores: semget(2), semop(2).
//
//   objects/semaphores-ID    one a set that belongs to the checkpoint (sysv_ipc.h)
//
//     id, key, mode, uid, gid
//     values 1 0 3
//     last 1234 0 1240          who operated on each last, 0 where that is no process of the image
//     undo 1234 0 -1 0          of a process: what its end adds to each (SEM_UNDO); absent where it is nothing
//
// A set that is still there under its id, with the same key and size and nobody waiting, gets the values of the image; another
// one in its way fails the resume.
//
// The kernel shows nobody the undo values. It keeps them in range, though: an operation that would take one out of it
// fails with ERANGE (perform_atomic_semop() in ipc/sem.c). So each process is asked with lists of operations that end with an
// impossible one, and so change nothing, wake nobody and fail, with ERANGE or else with EAGAIN.
#pragma once

#include "engine/kinds/sharing.h"
#include "engine/kinds/sysv_ipc.h"

namespace ckpt {

/// While all members are stopped. Of those that have undo values in common the owner is asked. Throws Error.
void capture_semaphores(ImageSink& image, const IpcMembers& members, const std::map<pid_t, Sharing>& sharing);

/// When all members are there and none has run. What takes it back goes to `traces`. Throws Error: EEXIST, EPERM, EINVAL.
void restore_semaphores(const ImageSource& image, const Caller& caller, const IpcMembers& members,
                        Traces& traces);

}  // namespace ckpt
