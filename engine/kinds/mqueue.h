// POSIX message queues: mq_open(3), by name.
//
//   type mqueue
//   queue /name
//   flags 0x802
//   max_messages 10, message_size 8192     of the queue
//   messages 3                             in it at the checkpoint
//   mode 0100600, uid 0, gid 0
//
// A queue outlives its processes: its messages are no part of an image, and the resumed process finds whatever is in it by
// then, as in a file. One that is gone is made again where it was empty, else the resume fails. Refused: a queue that has
// lost its name, and one that is to tell a process of the checkpoint of messages (mq_notify(3)). Source: ipc/mqueue.c.
#pragma once

#include "engine/kinds/kind.h"

namespace ckpt {

const DescriptorKind& mqueue_kind();

}  // namespace ckpt
