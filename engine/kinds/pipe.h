// Pipes with both ends inside the process tree, or whose other end nobody holds any more.
//
//   type pipe
//   target pipe:[4711]
//   flags 0x1                 the access mode tells which end it is
//   object pipe-4711          the pipe itself, below objects/, once for the whole image:
//
//   objects/pipe-4711         capacity 65536         of F_SETPIPE_SZ, bytes
//                             chunk 4096             one line a write of packet mode, absent for a stream
//   objects/pipe-4711.data    the bytes in the pipe; absent for an empty one
//
// FIFOs (fifo.h) keep their content in the same way.
#pragma once

#include "engine/kinds/kind.h"

namespace ckpt {

const DescriptorKind& pipe_kind();

/// "a pipe whose other end is outside the process tree cannot be checkpointed", or nothing; for FIFOs too.
std::optional<std::string> refuse_outside_end(const CaptureContext& ctx, const OpenFd& fd);

/// Writes capacity and content of the pipe or FIFO behind a descriptor, without consuming anything.
void capture_pipe_content(const CaptureContext& ctx, int fd, const std::string& object);

/// Sets capacity and content of a new pipe; `write_end` is non-blocking. Throws Error.
void restore_pipe_content(const RestoreContext& ctx, int write_end, const std::string& object);

/// The name in the field `object` of a record: one path component below objects/ that begins with `prefix`. Throws
/// Error(EINVAL).
std::string object_name(const Record& record, std::string_view prefix);

}  // namespace ckpt
