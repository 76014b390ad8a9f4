// Who is told by a signal when a descriptor becomes ready: fcntl(F_SETOWN_EX), F_SETSIG and O_ASYNC.
//
//   owner pid 1234           or `tid 1235`, `pgrp 1234`: the process itself, one of its threads, its process group
//   sigio 34                 the signal of F_SETSIG, absent for SIGIO
#pragma once

#include "engine/kinds/kind.h"

namespace ckpt {

/// Throws Error(EOPNOTSUPP) where the owner is outside the process.
void capture_owner(const CaptureContext& ctx, const OpenFd& fd, Record& out);
/// Sets owner, signal and O_ASYNC from inside the process. An owner outside the process is Error(EPERM): the kernel
/// would send the signal with the rights that set it.
void finish_owner(const RestoreContext& ctx, const Record& record, int fd, Remote& leader);

}  // namespace ckpt
