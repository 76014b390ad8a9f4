// How a thread is scheduled. Restored with the thread's own rights, after its credentials: an image cannot give
// anybody a priority that he may not take himself.
//
//   threads/TID      scheduler POLICY FLAGS NICE PRIORITY RUNTIME DEADLINE PERIOD      (sched_getattr(2))
//                    affinity HEX                                                     (CPU mask, lowest word first)
//                    io_priority N                                                    (ioprio_get(2))
#pragma once

#include "engine/kinds/process_room.h"

namespace ckpt {

void capture_scheduling(const CaptureContext& ctx, Remote& thread, const Questions& answers, Record& out);
void restore_scheduling(const RestoreContext& ctx, Remote& thread, const Record& record);
/// The last of a thread's calls: until then it shares our CPU, where each takes a fifth of the time. Throws Error.
void restore_affinity(const RestoreContext& ctx, Remote& thread);

}  // namespace ckpt
