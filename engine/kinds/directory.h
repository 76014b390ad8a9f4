// Directories.
//
//   type directory
//   path, mode, dev, inode, handle      see named_file.h
//   pos 123                             where getdents(2) goes on: the filesystem's own cookie
//   flags 0x18000
#pragma once

#include "engine/kinds/kind.h"

namespace ckpt {

const DescriptorKind& directory_kind();

}  // namespace ckpt
