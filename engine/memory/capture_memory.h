// From a snapshot into the image: segments/START-END, and the objects behind shared mappings.
#pragma once

#include "engine/kinds/kind.h"
#include "engine/memory/snapshot.h"

namespace ckpt {

struct CapturedMemory {
  uint64_t bytes = 0;
  uint64_t segments = 0;
};

/// Writes every touched run of `vmas` to PREFIXsegments/START-END, read and put by up to two threads in blocks of
/// kBlockSize, ascending. Holds two blocks of memory, whatever the size of the process. Throws what snapshot and image
/// throw, and Error(EINTR) soon after `cancel` is set; the image is then incomplete and must be dropped.
/// `second_thread`: whether there is a CPU for one.
CapturedMemory capture_memory(Snapshot& snapshot, const std::vector<Vma>& vmas, ImageSink& image,
                              const std::string& prefix, const CancelFlag* cancel, bool second_thread = true);

/// Writes the objects (memfd, shared anonymous memory, System V segments, deleted files) behind the mappings, each
/// once for the whole image. While the process is stopped. Throws Error.
void capture_shared_mappings(const CaptureContext& ctx, const std::vector<Vma>& vmas);

}  // namespace ckpt
