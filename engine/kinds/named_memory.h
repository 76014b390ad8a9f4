// POSIX shared memory and the like: a file with a name on a tmpfs (/dev/shm), which some process maps shared and writable. It is memory:
// a reboot leaves nothing of it, another machine has none, and going back in time takes it along. So its content is in
// the image, as that of a memory object of kind `named` (memory_object.h) with its path and time of modification.
//
// A resume makes the file again where there is none. Where it is there and nobody has it open, it gets its content back;
// where somebody has, or where the caller may not know (it is another user's), it is shared with him, and stays as it is. Should ckptfs be
// killed in the middle of a resume, a file that was there, and that nobody had open, is left with what had come back by then.
#pragma once

#include "engine/image/maps.h"
#include "engine/kinds/kind.h"

namespace ckpt {

/// Writes the objects for those of the mappings that are such memory. Called while the process is stopped. Opens files
/// of a tmpfs only. Throws Error.
void capture_named_memory(const CaptureContext& ctx, const std::vector<Vma>& vmas);

/// The identity of such a file in its object's record.
void capture_named(const CaptureContext& ctx, int fd, const std::string& path, const struct stat& st, Record& out);

/// The name in the same directory of a file on a tmpfs that has lost the name `path`, if it has one: sem_open(3)
/// maps a semaphore under a name of its own before it gets the one that was asked for.
std::optional<std::string> other_name(const CaptureContext& ctx, int fd, const std::string& path, const struct stat& st);

/// Makes the file of an object's record, or gives it its content back, as above. Returns it open for reading and writing. What a failing resume is to take
/// back is with ctx.traces. Throws Error: ESTALE where the path leads to a file that is no longer on a tmpfs, or another user's, EINVAL
/// for a malformed record, EACCES where the caller may not write to it.
UniqueFd restore_named_memory(const RestoreContext& ctx, const Record& object, uint64_t size, const std::string& content);

/// To be called before a file is looked for by its record (`dev`, `inode`): restores it if it is such memory of this image.
void bring_back_named_memory(const RestoreContext& ctx, const Record& file);

}  // namespace ckpt
