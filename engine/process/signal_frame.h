// The rt_sigframe that rt_sigreturn(2) takes a thread's state from, made by hand.
#pragma once

#include <sys/user.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace ckpt {

/// A thread's registers as they must be when no restart by the kernel will follow (rt_sigreturn, a resume):
/// the fix-up of arch_do_signal_or_restart() done by hand. -ERESTARTSYS, NOINTR, NOHAND: the call is made
/// again. For -ERESTART_RESTARTBLOCK `repeat_nr` is the call to be made again, with its original arguments;
/// -1: it fails with EINTR.
user_regs_struct restart_fixed(user_regs_struct regs, long repeat_nr);

/// Makes a frame, signal_frame_bytes() long, at the beginning of `out`; it is to be written at a multiple of 16, with
/// `restorer` as its return address. With rsp there, a `ret` ends in rt_sigreturn and the thread has the given state; its
/// alternate stack is left as it is. `area_address` is a multiple of 64: where the XSAVE area is to be written.
void make_signal_frame(const user_regs_struct& regs, uint64_t mask, uint64_t restorer, uint64_t area_address,
                       std::span<std::byte> out);

/// The XSAVE area that goes with frames, from a thread's state (NT_X86_XSTATE).
std::vector<std::byte> make_xsave_area(std::span<const std::byte> xsave);

/// Where in the frame the register of a system call's argument (0 to 5) stands.
size_t signal_frame_argument(size_t argument);

/// Bytes of a frame.
size_t signal_frame_bytes();

}  // namespace ckpt
