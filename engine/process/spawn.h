// Makes the process that will become the resumed one: the stub program under a chosen pid.
//
// The caller is one thread of a daemon with many, so the child may run nothing but raw system calls on a stack of its
// own until it has executed the stub (clone3 with CLONE_VM | CLONE_VFORK, the way of posix_spawn(3)).
//
// A resumed process is to be a child of init. Its parent is therefore a short-lived keeper process between us and it:
// when all is well the keeper exits and the child is handed to init (or the nearest subreaper); when the resume fails
// the keeper reaps the child, so that nothing at all is left, not even a zombie that init has yet to collect.
#pragma once

#include <sys/types.h>

#include <memory>

namespace ckpt {

/// Throws the Error for a clone3(2) of process `pid` that has failed with `err`.
[[noreturn]] void fail_clone(pid_t pid, int err);

class SpawnedStub {
 public:
  /// Starts the stub as process `pid`. `as_child`: as a child of this process, without a keeper. Throws Error: EEXIST
  /// (the pid is in use; a process that is just going away is waited for up to 100 ms), EPERM (set_tid of clone3(2)
  /// needs CAP_CHECKPOINT_RESTORE), EINVAL (beyond pid_max). The child dies when the calling thread does, until
  /// hand_over().
  SpawnedStub(pid_t pid, bool as_child);
  SpawnedStub(const SpawnedStub&) = delete;
  SpawnedStub& operator=(const SpawnedStub&) = delete;
  /// Unless handed over: reaps the child, which must have been killed (and, where traced, waited for) before.
  ~SpawnedStub();

  pid_t pid() const { return pid_; }
  /// The keeper exits, the child becomes init's. Before, the child's parent-death signal must have been cleared.
  void hand_over();

 private:
  struct Shared;
  void end_keeper(int command);

  pid_t pid_;
  pid_t keeper_ = 0;
  std::unique_ptr<Shared> shared_;
};

}  // namespace ckpt
