// Seccomp of each thread: strict mode, or its filters.
//
//   threads/TID      seccomp strict
//                    seccomp filter NAME NAME ...         oldest first, below objects/
//                                                         (absent for neither)
//
//   objects/seccomp-DIGEST
//                    log 1                                SECCOMP_FILTER_FLAG_LOG
//                    instruction CODE JT JF K             (hex) of classic BPF, one line each
//
// Filters that all threads have come first in each thread's list are installed for all at once, and so are the same ones
// again: a thread may go on to put the others in sync with itself (SECCOMP_FILTER_FLAG_TSYNC). The room is a part of
// credentials.h, since installing a filter wants rights that a thread then loses. Injected calls are not filtered:
// PTRACE_O_SUSPEND_SECCOMP, at the capture and at the resume.
#pragma once

#include "engine/kinds/process_room.h"

namespace ckpt {

/// `status` is the text of /proc/TID/status. Throws Error(EOPNOTSUPP) for a filter that asks a supervisor, or whose
/// program the kernel does not tell.
void capture_seccomp(const CaptureContext& ctx, Remote& thread, std::string_view status, Record& out);

/// Must find the thread with the rights to install a filter (CAP_SYS_ADMIN), and before any other thread the main one.
void restore_seccomp(const RestoreContext& ctx, Remote& thread, const Record& record);

}  // namespace ckpt
