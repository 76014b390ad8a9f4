// Who asks, and how an answer that takes long is described.
#pragma once

#include <sys/types.h>

#include <functional>

#include "engine/caller.h"
#include "engine/engine.h"

namespace ckpt {

/// The process behind a FUSE request, as the kernel reported it.
struct Request {
  pid_t tid = 0;   ///< the calling thread; 0 where it lives in another pid namespace
  uid_t uid = 0;   ///< filesystem uid and gid
  gid_t gid = 0;

  /// Thread group of the caller; 0 where unknown.
  pid_t process() const;
  /// Session of the caller, -1 where unknown.
  pid_t session() const;
  Caller caller() const { return Caller::of_request(tid, uid, gid); }
};

/// Thread group of a thread, its parent process, both from /proc/TID/status; 0 where it is gone.
pid_t process_of(pid_t tid);
pid_t parent_of(pid_t pid);
/// True where `pid` is `descendant` itself or one of its ancestors.
bool is_same_or_ancestor(pid_t pid, pid_t descendant);

/// What is left to do for a request after its handler has returned. Both parts run on a worker, never on a thread
/// that serves the FUSE device. Either may be empty.
struct Work {
  /// The reply waits for it and carries its error.
  std::function<void(const CancelFlag& cancel)> before_reply;
  /// Runs when the caller has been answered: for a caller that is itself to be stopped.
  std::function<void()> after_reply;

  explicit operator bool() const { return before_reply || after_reply; }
};

}  // namespace ckpt
