// eventfd(2).
//
//   type eventfd
//   target anon_inode:[eventfd]
//   flags 0x802
//   count 5                  the counter
//   semaphore 1              EFD_SEMAPHORE
#pragma once

#include "engine/kinds/kind.h"

namespace ckpt {

const DescriptorKind& eventfd_kind();

/// Whether an eventfd is a semaphore, for kernels before 6.5 whose fdinfo does not say it. Looks by reading, and puts
/// back what it took: the counter is the same afterwards. Only while nobody else uses it.
bool probe_semaphore(int eventfd, uint64_t count);

}  // namespace ckpt
