// O_PATH descriptors, of any type of file: a place in the tree, nothing that was opened.
//
//   type path
//   path, mode, dev, inode, handle      see named_file.h
//   flags 0x210000
#pragma once

#include "engine/kinds/kind.h"

namespace ckpt {

const DescriptorKind& path_kind();

}  // namespace ckpt
