// Named FIFOs, both ends inside the process or the other end held by nobody.
//
//   type fifo
//   path, mode, dev, inode, handle      see named_file.h
//   flags 0x800
//   hup 1                               a reader whose writers have gone (poll says POLLHUP)
//   object fifo-254-0-4711              capacity and content, as of a pipe (pipe.h)
#pragma once

#include "engine/kinds/kind.h"

namespace ckpt {

const DescriptorKind& fifo_kind();

}  // namespace ckpt
