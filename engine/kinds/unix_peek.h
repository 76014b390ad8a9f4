// A look at what waits in a unix socket to be read, with MSG_PEEK and SO_PEEK_OFF: nothing is consumed.
//
// An empty message behind the first one is seen only by the first who looks (the kernel's MSG_PEEK skips it afterwards).
#pragma once

#include <string>
#include <vector>

#include "engine/base/fd.h"
#include "engine/kinds/unix_record.h"

namespace ckpt {

/// A message as it was found; `passes` of the record is left empty.
struct PeekedMessage {
  UnixMessage record;
  std::vector<UniqueFd> files;   ///< duplicates of what is under way
  std::string data;
};

/// The whole queue of a unix socket, of which `fd` is our duplicate. The socket's SO_PEEK_OFF is as before afterwards.
/// Throws Error.
std::vector<PeekedMessage> peek_queue(int fd, int type);

}  // namespace ckpt
