// Puts right what must not outlive us when we die: ends processes in the moments in which the kernel does not do it for us
// (PTRACE_O_EXITKILL ends with the tracing), or in which only some of them have been ended; undoes what others would see.
#pragma once

#include <sys/types.h>

#include <memory>
#include <vector>

#include "engine/base/fd.h"

namespace ckpt {

/// While it is armed, the death of this process, by whatever means, makes some system calls. Behind it stands a small
/// process that shares our memory and descriptors, and waits. Thread-safe as any object; must be destroyed by the thread
/// that made it.
class DeathGuard {
 public:
  struct Call {
    long number = 0;
    long arguments[5] = {};   // a plain array: the guard may call no function
  };

  /// `pid_fds` are pidfds, to stay open meanwhile, whose processes get a SIGKILL. Throws Error.
  explicit DeathGuard(const std::vector<int>& pid_fds);
  /// Descriptors and memory that the calls name must stay meanwhile. Throws Error.
  explicit DeathGuard(std::vector<Call> calls);
  /// Disarms it.
  ~DeathGuard();
  DeathGuard(const DeathGuard&) = delete;
  DeathGuard& operator=(const DeathGuard&) = delete;

  /// From here on our death is nobody's. Idempotent.
  void disarm() noexcept;

 private:
  struct Shared;
  std::unique_ptr<Shared> shared_;
  pid_t pid_ = 0;
};

}  // namespace ckpt
