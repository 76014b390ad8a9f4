// The processes whose writes are followed from one checkpoint to the next.
#pragma once

#include <map>
#include <memory>
#include <mutex>

#include "engine/memory/tracking.h"

namespace ckpt {

/// The processes that are followed. Thread-safe.
class TrackingSet {
 public:
  /// Images below `least_bytes` of memory are read in full: it costs less. From `large_bytes` on most of the work is done
  /// before the stop, after one more, short, of its own.
  explicit TrackingSet(uint64_t least_bytes = 4 << 20, uint64_t large_bytes = 256 << 20)
      : least_bytes_(least_bytes), large_bytes_(large_bytes) {}

  /// Of a process that is followed, or is to be: with `make`, of the checkpoints of `root`, an ancestor or itself. Null where
  /// it is not, and where the kernel cannot.
  std::shared_ptr<MemoryTracking> find(pid_t pid, pid_t root, bool make);
  /// Whether any are followed for the checkpoints of `root`.
  bool follows_for(pid_t root);
  /// All that were followed for the checkpoints of `root`.
  void forget(pid_t root) noexcept;
  /// This process, whoever it is followed for.
  void forget_process(pid_t pid) noexcept;
  uint64_t least_bytes() const { return least_bytes_; }
  /// Of those that live.
  size_t size();

 private:
  const uint64_t least_bytes_, large_bytes_;
  std::mutex mutex_;   ///< guards processes_; innermost
  struct Followed {
    std::shared_ptr<MemoryTracking> tracking;
    pid_t root;
  };
  void forget_ended();

  std::map<pid_t, Followed> processes_;
};

}  // namespace ckpt
