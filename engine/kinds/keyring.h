// The session keyring of a process, keyrings(7): whose it is, not what is in it.
//
//   threads/TID      session_keyring user                     the user's own, which a process has that was given none
//                    session_keyring SERIAL [DESCRIPTION]     another, of a login session or a service, say
//                    links_user_keyring 1                     with the user's keyring in it
//                                                             (absent where the kernel does not tell)
//
// A resumed process has none of ckptfs's own session keyring, and so none of its keys. It has that of its user again, or
// else a new one, empty but for the user's keyring, in common with its parent where that was so. Keys are not kept: they
// are the kernel's secrets, and most cannot be read. Keys in a thread's or a process's own keyring are nobody else's, and
// refuse the checkpoint.
#pragma once

#include "engine/kinds/process_room.h"

namespace ckpt {

void ask_keyrings(Questions& questions);
/// Throws Error(EOPNOTSUPP).
void capture_keyrings(const CaptureContext& ctx, Remote& thread, const Questions& answers, Record& out);

/// What the record of the main thread says of its session keyring: equal for those who have it in common.
std::string recorded_session_keyring(const Record& record);
/// A new session keyring for a process that has just been made, before its threads and children are: they inherit it. `maker`
/// is that of the process whose keyring it has inherited, nothing for ours. Throws Error.
void make_session_keyring(Remote& leader, const Record& record, const std::optional<std::string>& maker);
/// The rest, by a thread that has its own ids again.
void restore_keyrings(const RestoreContext& ctx, Remote& thread, const Record& record);

}  // namespace ckpt
