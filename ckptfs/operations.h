// The FUSE handlers: decode, call the node, reply. The session's user data is the Filesystem.
#pragma once

#include "ckptfs/fuse_api.h"

namespace ckpt {

const struct fuse_lowlevel_ops& fuse_operations();

}  // namespace ckpt
