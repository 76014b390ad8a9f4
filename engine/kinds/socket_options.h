// Options of any socket, those of socket(7) that differ from what a new socket of the same kind has:
//
//   option PASSCRED 1              SO_PASSCRED; a number
//   sndbuf 212992 locked           SO_SNDBUF as getsockopt(2) tells it; locked: set by the program (as rcvbuf)
//   linger 1 5                     SO_LINGER: on, seconds
//   rcvtimeo 0 500000              SO_RCVTIMEO: seconds, microseconds (as sndtimeo)
//   filter 060000000000ffff        SO_ATTACH_FILTER, the instructions in hex; filter_locked 1
#pragma once

#include <optional>
#include <string>

#include "engine/base/record.h"
#include "engine/caller.h"

namespace ckpt {

/// Why the options of a socket cannot be kept (a BPF program), or nothing.
std::optional<std::string> refuse_socket_options(int fd);
/// Adds what differs from a new socket of the same domain, type and protocol. Throws Error.
void capture_socket_options(int fd, Record& out);
/// Sets them again, with the rights of the calling thread (AsCaller). Throws Error; EINVAL for a malformed one.
void restore_socket_options(int fd, const Record& record);
/// The sizes of its buffers alone, for after content has been put into them.
void restore_socket_buffers(int fd, const Record& record);
/// Room for `bytes` of content while it is put back; restore_socket_options() or restore_socket_buffers() set the true sizes afterwards.
void widen_socket_buffers(int fd, size_t bytes);

/// user UID GID, of the socket itself. A plain caller's is his own. Throws Error.
void restore_socket_user(int fd, const Record& record, const Caller& caller);

/// An integer option; nothing where this kernel or this kind of socket does not have it.
std::optional<int> socket_option(int fd, int level, int name);

}  // namespace ckpt
