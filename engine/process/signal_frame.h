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

/// A frame to be written at `address` (a multiple of 16), with `restorer` as its return address. With rsp at
/// `address`, a `ret` ends in rt_sigreturn and the thread has the given state; its alternate stack is left as
/// it is. `area_address` is a multiple of 64: where the second part, the XSAVE area, is to be written.
struct SignalFrame {
  std::vector<std::byte> frame;
  std::vector<std::byte> area;
};
SignalFrame make_signal_frame(const user_regs_struct& regs, uint64_t mask, std::span<const std::byte> xsave,
                              uint64_t restorer, uint64_t area_address);

/// Where in the frame the register of a system call's argument (0 to 5) stands.
size_t signal_frame_argument(size_t argument);

/// Sizes for laying it out.
size_t signal_frame_bytes();
size_t xsave_area_bytes(std::span<const std::byte> xsave);

}  // namespace ckpt
