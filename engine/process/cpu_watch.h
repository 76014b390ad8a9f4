// How much of the machine a process takes.
#pragma once

#include <sys/types.h>
#include <time.h>

#include <chrono>

namespace ckpt {

/// Watches one process from its construction on. Thread-safe.
class CpuWatch {
 public:
  explicit CpuWatch(pid_t pid);
  /// Whether a second thread of ours would have a CPU for itself: it must not take one that the process is using. What
  /// counts is what the process has used since the construction, as one that waits for a moment is about to go on. False
  /// where the process has ended.
  bool a_cpu_is_free() const;

 private:
  clockid_t clock_ = CLOCK_PROCESS_CPUTIME_ID;
  const bool known_;
  const std::chrono::steady_clock::time_point since_;
  std::chrono::nanoseconds used_before_;
};

}  // namespace ckpt
