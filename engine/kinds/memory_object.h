// Memory that is a file without a name: memfd, shared anonymous memory, System V segments, deleted files. Written once
// for the whole image, shared by every descriptor and mapping that refers to it.
//
//   objects/memory-MAJOR-MINOR-INODE            record: kind (memfd, shmem, deleted), name, size, mode, seals
//   objects/memory-MAJOR-MINOR-INODE.data/START-END   its content, runs of data only, hex byte offsets as in segments/
#pragma once

#include "engine/kinds/kind.h"

namespace ckpt {

/// Name of the object for an inode: "memory-0-1-4711".
std::string memory_object_name(uint32_t dev_major, uint32_t dev_minor, uint64_t inode);

/// Writes object and content the first time it is met in this image (ctx.first), from an open descriptor of it.
/// Returns its name. `link` is the name as /proc shows it ("/memfd:x (deleted)").
std::string capture_memory_object(const CaptureContext& ctx, int fd, const std::string& link);

/// Makes the object with its content the first time it is asked for; the descriptor stays owned by ctx.objects and is
/// open for reading and writing. Throws Error(EINVAL) for a malformed record. A mapping whose object is not in the
/// image is a mapping of an ordinary file: ask image->has("objects/" + name) first.
int restore_memory_object(const RestoreContext& ctx, const std::string& name);

}  // namespace ckpt
