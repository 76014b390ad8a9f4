// signalfd(2). Pending signals belong to the process and its threads, not to the descriptor.
//
//   type signalfd
//   target anon_inode:[signalfd]
//   flags 0x802
//   mask 0x600               signal N is bit N-1
#pragma once

#include "engine/kinds/kind.h"

namespace ckpt {

const DescriptorKind& signalfd_kind();

}  // namespace ckpt
