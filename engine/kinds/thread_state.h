// What the kernel keeps for a thread beside registers, signals and credentials.
//
//   threads/TID      name COMM
//                    clear_child_tid ADDRESS
//                    robust_list ADDRESS LENGTH
//                    rseq ADDRESS SIZE SIGNATURE         (only where one is registered)
//                    parent_death_signal SIGNO
//                    personality HEX
//                    timer_slack_ns N
#pragma once

#include "engine/kinds/process_room.h"

namespace ckpt {

void ask_thread_state(Questions& questions);
void capture_thread_state(const CaptureContext& ctx, Remote& thread, const Questions& answers, Record& out);
void restore_thread_state(const RestoreContext& ctx, Remote& thread, const Record& record);

}  // namespace ckpt
