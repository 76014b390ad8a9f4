// The registers of a thread:
//
//   registers/TID        every name of struct user_regs_struct, one a line in hex, and `xsave_component BIT
//   OFFSET SIZE`
//                        for each part of the XSAVE area that is in use
//   registers/TID.xsave  the XSAVE area, standard format, as PTRACE_GETREGSET NT_X86_XSTATE gives it
//
// They are those of a thread that is not inside a system call: one that was interrupted is made again from
// its beginning (orig_rax -1, rax its number, rip in front of the `syscall`), see restart_fixed() in
// process/signal_frame.h.
#pragma once

#include <sys/user.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/image/image.h"
#include "engine/process/remote_syscall.h"

namespace ckpt {

/// Writes both files of a stopped thread. Does no system call in it. Throws Error(ESRCH).
void capture_registers(ImageSink& image, const std::string& prefix, RemoteSyscall& thread);

/// A thread's registers, read from an image and found to be harmless for this machine.
struct RestoredRegisters {
  user_regs_struct regs{};
  std::vector<std::byte> xsave;  ///< in this CPU's layout, as large as it needs to be
  /// Whether the tiles of AMX are in use: the kernel must have made room for them before the area is set.
  bool has_tiles() const;
};

/// Parses and checks; makes nothing. The segment registers are forced, the flags masked, addresses must be
/// the user's. Throws Error: EINVAL (malformed, hostile), ENOEXEC (the thread uses XSAVE features that this
/// CPU does not have).
RestoredRegisters parse_registers(const ImageSource& image, const std::string& prefix, pid_t tid);

/// Gives them to a stopped tracee; the last thing before it is detached. Throws Error(ESRCH, EINVAL).
void apply_registers(pid_t tid, const RestoredRegisters& registers);

/// Rights of the protection keys (PKRU, pkeys(7)) of a stopped thread that we trace; nothing where the CPU has none.
/// Throws Error(ESRCH).
std::optional<uint32_t> key_rights(pid_t tid);

}  // namespace ckpt
