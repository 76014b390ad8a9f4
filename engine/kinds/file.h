// Regular files with a name.
//
//   type file
//   path, mode, dev, inode, handle      see named_file.h
//   pos 123                             position in bytes
//   flags 0x8401                        as open(2)
//   size 4096                           of the file at the checkpoint, bytes
//   mtime_ns 1700000000123456789        its time of modification
//   lock ...                            see locks.h
//
// A file that has changed since is not handed to a program that believes it unchanged: another size or mtime is
// ESTALE. One exception: a file that is open for writing only, and still the same inode, may have grown or been
// written to, since the program cannot know its content, and it may be itself who went on writing after the
// checkpoint. Without `size` and `mtime_ns` (removed by a user who knows better, or a file of a filesystem where they
// mean nothing, such as /proc) nothing is checked.
#pragma once

#include "engine/kinds/kind.h"

namespace ckpt {

const DescriptorKind& file_kind();

}  // namespace ckpt
