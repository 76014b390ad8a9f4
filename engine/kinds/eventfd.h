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

/// Another process than `pid` and this one that has the eventfd of that number (eventfd-id of fdinfo, Linux 5.2) and is
/// not held still by us; 0 for none. Looks at every process.
pid_t running_holder(pid_t pid, const std::string& id);

/// Whether an eventfd is a semaphore, for kernels before 6.5 whose fdinfo does not say it. Looks by reading, and puts
/// back what it took: the counter is the same afterwards. Only while nobody else uses it: who waits for it
/// in edge-triggered mode may be told of it once more.
bool probe_semaphore(int eventfd, uint64_t count);

}  // namespace ckpt
