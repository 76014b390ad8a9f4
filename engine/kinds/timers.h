// Timers of a process, with the time that was left at the checkpoint.
//
//   timers    interval WHICH VALUE_US INTERVAL_US            (getitimer(2): 0 real, 1 virtual, 2 prof; only armed ones)
//             posix ID CLOCK NOTIFY SIGNO SIGVAL TID VALUE_NS INTERVAL_NS
//                   NOTIFY is signal, thread or none; TID is 0 but for thread; a disarmed timer has VALUE_NS 0
//
// Timers come back with the time left, relative to the resume; ids are kept.
#pragma once

#include "engine/kinds/process_room.h"

namespace ckpt {

void ask_timers(const CaptureContext& ctx, Questions& questions);
void capture_timers(const CaptureContext& ctx, const Questions& answers);
void restore_timers(const RestoreContext& ctx, Remote& leader);

}  // namespace ckpt
