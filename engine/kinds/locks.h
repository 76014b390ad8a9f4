// Locks that belong to a descriptor: flock(2), open file description locks, POSIX record locks, leases.
//
//   lock flock read                    of the file description, the whole file
//   lock ofd write 0 eof               of the file description: first and last byte
//   lock posix write 100 199           of the process
//   lock lease read                    of the file description: fcntl(F_SETLEASE); its owner as in owner.h
//
// One line a lock, in fds/N of the descriptor it was taken through. Locks are taken again without waiting; one that
// somebody else holds by now fails the resume. Source: show_fd_locks() in fs/locks.c.
#pragma once

#include "engine/kinds/kind.h"

namespace ckpt {

/// Why a lock of the descriptor cannot be made again ("a lease that is being broken ..."), or nothing.
std::optional<std::string> refuse_locks(const OpenFd& fd);
/// Throws Error(EOPNOTSUPP) for a lock that cannot be made again.
void capture_locks(const CaptureContext& ctx, const OpenFd& fd, Record& out);
/// The same for what belongs to the process alone (posix): of a descriptor that another process's record tells of.
void capture_process_locks(const CaptureContext& ctx, const OpenFd& fd, Record& out);
/// Takes what belongs to the file description `fd` (flock, ofd). Throws Error(EAGAIN) where it is held elsewhere.
void restore_locks(int fd, const Record& record);
/// Whether the record has a lease: then its description has an owner, who is told when the lease is broken.
bool has_lease(const Record& record);
/// Takes what belongs to the process (posix), with its own system calls, and leases: of the files of the image nobody but
/// the processes has any open by then.
void finish_locks(const Record& record, int fd, Remote& leader);

}  // namespace ckpt
