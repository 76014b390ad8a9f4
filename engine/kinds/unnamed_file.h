// Files without a name: memfd, and regular files that were deleted while open.
//
//   type memfd                          or `deleted`
//   target /memfd:x (deleted)           as /proc shows it
//   pos 123
//   flags 0x8002
//   object memory-0-1-4711              the file itself with its content, see memory_object.h
//   lock ...                            see locks.h
#pragma once

#include "engine/kinds/kind.h"

namespace ckpt {

const DescriptorKind& memfd_kind();
const DescriptorKind& deleted_kind();

}  // namespace ckpt
