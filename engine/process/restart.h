// Which system call a thread was in, when the kernel has hidden it.
#pragma once

#include <sys/user.h>

#include "engine/process/tracee.h"

namespace ckpt {

/// For a thread whose rax is -ERESTART_RESTARTBLOCK: the number of the call to make again. That is orig_rax, unless the
/// call had been restarted before: then orig_rax is restart_syscall (219) and the number is read from the `mov` before the
/// `syscall` instruction. -1 where it cannot be found, or where the registers are in no such state.
long call_to_repeat(const Tracee& tracee, const user_regs_struct& regs);

}  // namespace ckpt
