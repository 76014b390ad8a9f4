// What a thread may ask of its CPU, in threads/TID, each line only where it is not the default:
//
//   cpu_permission BIT      XSAVE feature that the process has asked for (ARCH_REQ_XCOMP_PERM); the same in all threads
//   tsc 0                   reading the time stamp counter is a SIGSEGV (PR_SET_TSC)
//   cpuid 0                 so is the instruction CPUID (ARCH_SET_CPUID)
//   speculation WHICH STATE a misfeature of speculation, switched off for this thread (PR_SET_SPECULATION_CTRL)
//   io_flusher 1            it serves block I/O, and allocates memory without it (PR_SET_IO_FLUSHER)
#pragma once

#include "engine/kinds/process_room.h"

namespace ckpt {

/// Throws Error(EOPNOTSUPP) where one of the process's threads has what is not kept: a core scheduling cookie.
void refuse_cpu_features(pid_t pid, int proc_dir);

void ask_cpu_features(Questions& questions);
void capture_cpu_features(const CaptureContext& ctx, Remote& thread, const Questions& answers, Record& out);
/// Errors: ENOEXEC where this machine does not have what the thread relies on, EPERM where only root may give it.
void restore_cpu_features(const RestoreContext& ctx, Remote& thread, const Record& record);

}  // namespace ckpt
