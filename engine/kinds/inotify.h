// inotify(7) instances. Events that wait to be read cannot be put back, so an instance that has some is refused.
//
//   type inotify
//   target anon_inode:inotify
//   flags 0x80000
//   watch 1 0x102 /etc       watch descriptor, mask, path; one line each, ascending
//
// The path is looked up from the inode (the file handle in fdinfo) when the checkpoint is taken; a watch whose file
// has no path below the process's root is refused. Without CAP_DAC_READ_SEARCH only what the process has open, or as its
// working directory, can be looked up.
#pragma once

#include "engine/kinds/kind.h"

namespace ckpt {

const DescriptorKind& inotify_kind();

}  // namespace ckpt
