// Serves /dev/ckpt, the kernel module's queue of processes that have received SIGCKPT or SIGCKPTEXIT (kmod/).
#pragma once

#include <memory>
#include <thread>

#include "engine/base/fd.h"

namespace ckpt {

class Filesystem;

/// The device, from when on signals wait for their checkpoint instead of being passed over: to be opened before the mount
/// can be seen. Invalid where the module is not loaded, another mount serves it or we may not; the log tells, unless there
/// is no module.
UniqueFd open_signal_device();

class SignalServer {
 public:
  /// Starts a thread that serves `device`; does nothing where that is invalid. `filesystem` must outlive it.
  SignalServer(Filesystem& filesystem, UniqueFd device);
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
