// Who a thread is: identities, capabilities, securebits, no_new_privs.
//
//   threads/TID      uid REAL EFFECTIVE SAVED FILESYSTEM
//                    gid REAL EFFECTIVE SAVED FILESYSTEM
//                    groups G G G ...                     (absent where there are none)
//                    cap_inheritable, cap_permitted, cap_effective, cap_bounding, cap_ambient   (hex)
//                    securebits HEX
//                    no_new_privs 0|1
//                    seccomp ...                          see seccomp.h
//
// The room is the last one that needs rights: what comes after it runs with the thread's own.
#pragma once

#include "engine/kinds/process_room.h"

namespace ckpt {

void ask_credentials(Questions& questions);
void capture_credentials(const CaptureContext& ctx, Remote& thread, const Questions& answers, Record& out);
void restore_credentials(const RestoreContext& ctx, Remote& thread, const Record& record);

/// Throws Error(EPERM) that names the field unless every credential in the record is `caller`'s own: all uids and gids,
/// groups among the caller's, and no capability. A privileged caller passes. To be asked before anything is made.
void check_may_resume(const Caller& caller, const Record& thread);

}  // namespace ckpt
