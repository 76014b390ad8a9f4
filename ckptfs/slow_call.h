// A request that is answered from a worker: a command of ctl, the last close of an image that is being resumed.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>

#include "ckptfs/filesystem.h"
#include "ckptfs/fuse_api.h"
#include "ckptfs/request.h"

namespace ckpt {

/// Runs `work` on a worker and answers the request with `success`, or with the errno of its Error.
///
/// While the caller waits it can be interrupted:
///  - by a signal (Ctrl-C, kill): the work is cancelled, and answers EINTR when it has ended;
///  - by a checkpoint, perhaps of this very ctl, that is about to stop it. Whoever waits for an answer of this
///    filesystem cannot be stopped, so it is answered with success at once; the outcome stands in ctl.
class SlowCall : public std::enable_shared_from_this<SlowCall> {
 public:
  using Success = std::function<void(fuse_req_t)>;

  static void start(Filesystem& filesystem, fuse_req_t fuse_request, const Request& request, Work work,
                    Success success);

 private:
  SlowCall(Filesystem& filesystem, fuse_req_t fuse_request, const Request& request, Work work, Success success)
      : filesystem_(filesystem),
        fuse_request_(fuse_request),
        request_(request),
        work_(std::move(work)),
        success_(std::move(success)) {}

  void run();
  void answer(const Success& reply);
  /// Called by libfuse with its lock on the request held.
  static void interrupted(fuse_req_t, void* call);
  void watch();

  Filesystem& filesystem_;
  const fuse_req_t fuse_request_;
  const Request request_;
  Work work_;
  const Success success_;
  CancelFlag cancel_{false};

  std::mutex mutex_;   ///< guards answered_; never held while libfuse is called
  std::condition_variable changed_;
  bool answered_ = false;
};

}  // namespace ckpt
