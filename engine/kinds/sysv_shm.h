// System V shared memory: shmget(2), shmat(2).
//
// A segment is an object of memory (memory_object.h), objects/memory-MAJOR-MINOR-ID, with
//
//   kind sysv
//   id 32769                  its identifier, which programs keep in their memory
//   key 0x5f010002            0 for IPC_PRIVATE, and where it has been removed
//   removed 1                 IPC_RMID: it goes with its last attachment
//   locked 1                  SHM_LOCK
//   size 4096, mode 0100600, uid 0, gid 0     of shmid_ds
//
// Its mappings are attachments again (shmdt works, shm_nattch counts them). A segment that is still there under its id,
// with the same key and size and nobody attached, is taken with the content of the image; another one in its way fails the
// resume. Who made it, and when, is not kept: that is who resumes. Sources: ipc/shm.c, Documentation/admin-guide/sysctl/
// kernel.rst (shm_next_id).
#pragma once

#include "engine/image/maps.h"
#include "engine/kinds/kind.h"

namespace ckpt {

/// Whether the name of a mapping as /proc shows it is that of a segment.
bool is_segment(std::string_view link);

bool attaches_segment(const Vma& vma);

/// Adds kind, id, key, removed and locked, and puts the permissions of the segment into mode, uid and gid of `st`, that of
/// its file. Throws Error(EOPNOTSUPP) where processes outside the checkpoint have attached it as well, which is known
/// while all of it is stopped.
void capture_segment(const CaptureContext& ctx, const std::string& link, struct stat& st, Record& out);

/// Makes the segment, all zero, or takes the one that is there; the descriptor serves to fill it. It stays attached here
/// until ctx.kept goes; a failed resume removes it again (ctx.traces). Throws Error: EEXIST, and EPERM for a plain caller.
UniqueFd restore_segment(const RestoreContext& ctx, const Record& object, uint64_t size);

/// Checks that a mapping of an image can be one of the segment that `object` describes. Throws Error(EINVAL).
void check_attachment(const Record& object, const Vma& vma);

/// Makes all mappings of segments among `vmas`, in the process that `leader` belongs to, whose address space is still
/// empty. Throws Error.
void attach_segments(Remote& leader, const std::vector<Vma>& vmas);

}  // namespace ckpt
