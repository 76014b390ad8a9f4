// Descriptors that refer to the process itself, or to another process of the image, made again when that is there.
//
//   type proc                           a file or directory below its directory in /proc, open for reading
//   path /proc/1234/maps
//   pos 0, flags 0x8000
//
//   type pidfd                          pidfd_open(2)
//   pid 1234                            of that process; absent for itself
//   target anon_inode:[pidfd]
//   flags 0x80002
//
// Both are refused where they refer to a process outside the image, or were opened for writing.
#pragma once

#include "engine/kinds/kind.h"

namespace ckpt {

const DescriptorKind& proc_kind();
const DescriptorKind& pidfd_kind();

}  // namespace ckpt
