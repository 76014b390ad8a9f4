// System V message queues: msgget(2), msgsnd(2), msgrcv(2).
//
//   objects/messages-ID          one a queue that belongs to the checkpoint (sysv_ipc.h)
//
//     id, key, mode, uid, gid
//     capacity 16384             msg_qbytes
//     sender 1234, receiver 0    who has sent and received last, 0 where that is no process of the image
//     message 7 1200             type and bytes of each, the first to come first
//
//   objects/messages-ID-content  the bytes of all messages, one after the other
//
// Read with MSG_COPY, which leaves them in the queue. A queue that is still there under its id, with the same key, gets the
// messages of the image in place of its own; another one in its way fails the resume. Source: ipc/msg.c.
#pragma once

#include "engine/kinds/sysv_ipc.h"

namespace ckpt {

/// While all members are stopped. Throws Error.
void capture_message_queues(ImageSink& image, const IpcMembers& members);

/// When all members are there and none has run. What takes it back goes to `traces`. Throws Error: EEXIST, EPERM, EINVAL.
void restore_message_queues(const ImageSource& image, const Caller& caller, const IpcMembers& members,
                            Traces& traces);

}  // namespace ckpt
