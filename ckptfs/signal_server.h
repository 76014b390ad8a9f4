// Serves /dev/ckpt, the kernel module's queue of processes that have received SIGCKPT or SIGCKPTEXIT (kmod/).
#pragma once

#include <memory>
#include <thread>

#include "engine/base/fd.h"

namespace ckpt {

class Filesystem;

class SignalServer {
 public:
  /// Starts a thread where the module is loaded, no other mount serves it and we may; else does nothing, and says so in
  /// the log unless there is no module. `filesystem` must outlive it.
  explicit SignalServer(Filesystem& filesystem);
  /// Processes that are still waiting go on without an image.
  ~SignalServer();
  SignalServer(const SignalServer&) = delete;
  SignalServer& operator=(const SignalServer&) = delete;

 private:
  void serve();
  void take_request();

  Filesystem& filesystem_;
  std::shared_ptr<UniqueFd> device_;   ///< shared with the work under way
  UniqueFd end_;                       ///< an eventfd
  std::thread thread_;
};

}  // namespace ckpt
