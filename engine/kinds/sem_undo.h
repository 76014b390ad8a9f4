// The undo values of System V semaphores (SEM_UNDO): what the end of a process adds to each. See sysv_sem.h.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <span>
#include <vector>

#include "engine/process/remote.h"

namespace ckpt {

constexpr int kMaxSemaphore = 32767;  ///< SEMVMX and SEMAEM in include/uapi/linux/sem.h

/// Of a set whose semaphores have these values, which nobody changes meanwhile. Changes nothing, and wakes nobody. Throws Error.
std::vector<int> read_undo(Remote& process, int id, std::span<const unsigned short> values);

/// Adds to an undo value, and leaves the semaphore's value as it is. The process is then the last who operated on it.
void add_undo(Remote& process, int id, size_t number, unsigned short value, int undo);

/// Makes the process the last who operated on it.
void touch_semaphore(Remote& process, int id, size_t number, unsigned short value);

}  // namespace ckpt
