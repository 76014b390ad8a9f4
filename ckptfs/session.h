// The FUSE session of one mount: mounted, served, unmounted on every path.
#pragma once

#include <string>

#include "ckptfs/filesystem.h"
#include "ckptfs/fuse_api.h"
#include "ckptfs/options.h"

namespace ckpt {

class Session {
 public:
  /// Mounts. Throws Error where the options are wrong or the mount fails (libfuse has printed why).
  Session(fuse_args& args, const Options& options, Filesystem& filesystem);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  /// Serves until the filesystem is unmounted, or SIGTERM, SIGINT or SIGHUP comes. Returns the exit status.
  int serve();

 private:
  const Options& options_;
  Filesystem& filesystem_;
  fuse_session* session_ = nullptr;
};

/// The signals that end a mount, blocked: threads made from now on (the store's, the workers') must not take them
/// from the thread that waits for them.
class BlockedSignals {
 public:
  BlockedSignals();
  /// Lets the calling thread, and no other, take them.
  static void unblock();
};

}  // namespace ckpt
