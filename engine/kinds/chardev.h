// Character devices without a state of their own: null, zero, full, random, urandom.
//
//   type chardev
//   path, mode, dev, inode, handle      see named_file.h
//   rdev 1:3                            the device; the path must lead to the same one again
//   flags 0x8002
//
// Every other device is refused by name (other.h), terminals have a kind of their own (tty.h).
#pragma once

#include "engine/kinds/kind.h"

namespace ckpt {

const DescriptorKind& chardev_kind();

}  // namespace ckpt
