// Which system call a thread was in, when the kernel has hidden it.
#pragma once

#include <sys/user.h>

#include "engine/process/tracee.h"

namespace ckpt {

/// For a thread whose rax is -ERESTART_RESTARTBLOCK: the number of the call to make again. That is orig_rax,
/// unless the call had been restarted before: then orig_rax is restart_syscall (219) and the number is read
/// from the `mov` before the `syscall` instruction. -1 where it cannot be found, or where the registers are
/// in no such state.
long call_to_repeat(const Tracee& tracee, const user_regs_struct& regs);

/// The same registers with what is left of a sleep for its time: nanosleep and clock_nanosleep have left it
/// in the memory that their last argument names, if any, when they were interrupted. For a process that is
/// made anew, where the kernel knows no more when the sleep is to end; the other calls (poll, futex) tell
/// nobody, and wait their whole time again.
user_regs_struct sleep_the_rest(user_regs_struct regs, long repeat_nr);

/// A thread can be caught when the kernel has seen to the restart already, and it stands before the `syscall` with
/// restart_syscall (219) as its number (exit_to_user_mode_loop() looks for signals again after a wait for its CPU). What
/// that call is to go on with is forgotten by the next rt_sigreturn(2). Returns the registers as they were before.
user_regs_struct undo_restart(const Tracee& tracee, const user_regs_struct& regs);

/// Some calls fail with EINTR for any interruption, a debugger's too, handler or not: epoll_wait, semop,
/// sigtimedwait, sockets with a time limit (signal(7)). Where `regs` stand at the end of one, returns them
/// with -ERESTARTNOHAND instead: the kernel then makes the call again if no handler is to run, and says EINTR
/// if one is. A time limit of such a call begins anew.
user_regs_struct undo_interruption(const user_regs_struct& regs);
/// The same for a stopped thread that is to go on as it was found. Throws Error(ESRCH).
void undo_our_stop(Tracee& tracee);

}  // namespace ckpt
