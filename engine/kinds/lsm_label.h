// The label that a security module (AppArmor, SELinux, Smack) confines a thread by.
//
//   threads/TID      label TEXT       of /proc/TID/attr/current; absent where no module labels threads
//
// A resumed thread would have ckptfs's own label. Only where it had the same one it may be resumed.
#pragma once

#include "engine/kinds/process_room.h"

namespace ckpt {

void capture_label(const CaptureContext& ctx, Remote& thread, const Questions& answers, Record& out);
/// Throws Error(EPERM) where the thread would be confined in another way.
void check_label(const RestoreContext& ctx, Remote& thread, const Record& record);

}  // namespace ckpt
