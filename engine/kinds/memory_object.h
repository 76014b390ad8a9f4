// Memory that is a file: memfd, shared anonymous memory, System V segments, deleted files, POSIX shared memory (named_memory.h). Written
// once for the whole image, shared by every descriptor and mapping that refers to it. Huge pages and secret memory are refused by name.
//
//   objects/memory-MAJOR-MINOR-INODE          (of a System V segment: sysv_shm.h)
//       kind memfd                 memfd, shmem (shared anonymous memory), deleted (a file that lost its last name) or
//                                  named (a file of a tmpfs that is mapped)
//       name x                     of memfd_create
//       path /tmp/x                deleted: the name it had; it is made again, unnamed, in the same directory; named: its name
//       mtime_ns 1700000000000     named: the time of modification
//       size 12345                 bytes
//       mode 0100644, uid 0, gid 0
//       seals 0xf                  memfd: F_SEAL_*
//   objects/memory-MAJOR-MINOR-INODE.data/START-END
//                                  its content: runs of data, byte offsets in hex; the rest is holes
//
#pragma once

#include "engine/kinds/kind.h"

namespace ckpt {

/// Name of the object for an inode: "memory-0-1-4711".
std::string memory_object_name(uint32_t dev_major, uint32_t dev_minor, uint64_t inode);

/// Writes object and content the first time it is met in this image (ctx.first), from an open descriptor of it that
/// may be read, or be opened again for reading. Returns its name. `link` is the name as /proc shows it ("/memfd:x
/// (deleted)"). Called while the process is stopped: content is copied then, since it may change afterwards; where
/// ctx.later and ctx.later_bytes allow, to memory, and into the image later. Throws Error(EOPNOTSUPP) for huge-page
/// memory and others that cannot be made again.
std::string capture_memory_object(const CaptureContext& ctx, int fd, const std::string& link);

/// The record of the object in an image. Throws Error(EINVAL).
Record memory_object_record(const RestoreContext& ctx, const std::string& name);

/// Makes the object with its content the first time it is asked for; the descriptor stays owned by ctx.objects and is
/// open for reading and writing. Throws Error(EINVAL) for a malformed record. A mapping whose object is not in the
/// image is a mapping of an ordinary file: ask image->has("objects/" + name) first. A shared mapping of a memfd that
/// is sealed against writing wants a read-only descriptor before Linux 6.7: open_memory_object() with flags 0x0.
int restore_memory_object(const RestoreContext& ctx, const std::string& name);

/// Another description of the object, with `flags` and `pos` of a descriptor's record.
UniqueFd open_memory_object(const RestoreContext& ctx, const std::string& name, const Record& record);

/// Seals that would forbid mappings which the process has (F_SEAL_FUTURE_WRITE): to be added, through `fd` of the
/// process, when they are made.
void finish_memory_object(const RestoreContext& ctx, const std::string& name, int fd, Remote& leader);

/// True for a regular file that has no name in any directory: what capture_memory_object() is for.
bool is_unnamed(const OpenFd& fd);

}  // namespace ckpt
