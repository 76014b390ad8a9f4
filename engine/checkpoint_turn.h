// One checkpoint at a time for each process.
#pragma once

#include <sys/types.h>

#include <set>

#include "engine/engine.h"

namespace ckpt {

/// The processes that a checkpoint works on. Those of two checkpoints at once are different ones: the second waits for the
/// first. As one takes a process only when it has its parent, none waits for another in a circle. Not thread-safe; the
/// destructor lets the next ones have them.
class CaptureTurns {
 public:
  CaptureTurns() = default;
  ~CaptureTurns();
  CaptureTurns(const CaptureTurns&) = delete;
  CaptureTurns& operator=(const CaptureTurns&) = delete;

  /// Waits until no other checkpoint has the process. Throws Error(EINTR) when `cancel` is set.
  void take(pid_t pid, const CancelFlag* cancel);
  /// The same without waiting: false where another one has it.
  bool try_take(pid_t pid);
  void give_back(pid_t pid);
  /// What being_captured() says of all of them.
  void set_touched(bool touched);

 private:
  std::set<pid_t> pids_;
};

}  // namespace ckpt
