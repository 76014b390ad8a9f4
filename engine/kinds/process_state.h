// What belongs to a whole process and has no room of its own.
//
//   process          umask OCTAL
//                    dumpable 0|1|2
//                    child_subreaper 0|1
//                    coredump_filter HEX
//                    oom_score_adj N
//   limits           as /proc/PID/limits
//   cwd, root        symbolic links
#pragma once

#include "engine/kinds/process_room.h"

namespace ckpt {

void ask_process_state(const CaptureContext& ctx, Questions& questions);
void capture_process_state(const CaptureContext& ctx, const Questions& answers);
void restore_process_state(const RestoreContext& ctx, Remote& leader);

/// Last of all, when no thread's credentials change any more: each such change resets it (credentials(7)).
void restore_dumpable(const RestoreContext& ctx, Remote& leader);

/// Refuses a working or root directory that is gone. Before the stop.
void refuse_process_state(pid_t pid, int proc_dir);

}  // namespace ckpt
