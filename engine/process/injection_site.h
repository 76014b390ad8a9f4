// The code in a process that system calls are injected with: it is never written, only found.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "engine/process/procfs.h"
#include "engine/process/remote_ptr.h"

namespace ckpt {

class RemoteSyscall;

/// Where in a process code for injection stands, and which memory there is. One for all threads; not
/// thread-safe.
struct InjectionSite {
  RemotePtr syscall_ret;  ///< `syscall; ret`
  RemotePtr restorer;     ///< `mov $15, %eax; syscall`: rt_sigreturn; 0 where the process has none
  RemotePtr store;        ///< `mov %rax, (%rbx); pop %rbx; ret`, which keeps a result; 0 where the process has none
  std::vector<Mapping> mappings;
  uint64_t main_rsp = 0;  ///< stack pointer of the main thread, 0 where not known
  bool seccomp = false;   ///< the main thread is under seccomp
  /// Pieces at the low end of the main stack, lent to threads on stacks of unknown bounds; oldest first.
  std::vector<std::pair<uint64_t, RemoteSyscall*>> lent;
  /// False where a death of ours would kill the process: there is no code for a return.
  bool survives_us() const { return restorer.addr != 0; }
};

/// Searches the executable mappings. Throws Error(EOPNOTSUPP) where there is not even a system call
/// instruction.
InjectionSite find_injection_site(pid_t pid, std::vector<Mapping> mappings);

/// Whether the code is still there: an exec, or the end of a library, may have come since it was found.
bool holds_code(pid_t pid, const InjectionSite& site);

}  // namespace ckpt
