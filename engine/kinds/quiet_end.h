// The end of processes whose TCP connections are to be resumed: their peers hear nothing of it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/kinds/kind.h"
#include "engine/kinds/peer_hold.h"
#include "engine/kinds/tcp_connection.h"

namespace ckpt {

/// For a checkpoint after which the processes end. Until begin() its destruction leaves everything as it was.
class QuietEnd {
 public:
  /// In the stop, before connections are read: what peers outside the checkpoint send is dropped from here on, so that nothing
  /// is acknowledged that is not in the image. Throws Error: EOPNOTSUPP for a connection that a process outside has too, or
  /// where packets cannot be held up.
  explicit QuietEnd(const CaptureContext& ctx);
  QuietEnd(const QuietEnd&) = delete;
  QuietEnd& operator=(const QuietEnd&) = delete;

  /// CaptureContext::peer_hold.
  std::string hold() const { return hold_ ? hold_->name() : ""; }
  /// When the end of the processes is certain, and before it: connections end without a packet, with the last descriptor,
  /// which is that of this object at the latest. Throws Error.
  void begin();

 private:
  std::vector<TcpSocket> sockets_;
  std::unique_ptr<PeerHold> hold_;
};

}  // namespace ckpt
