// Descriptors of processes: pidfd_open(2), clone3(2) with CLONE_PIDFD.
//
//   type pidfd
//   target anon_inode:[pidfd]
//   flags 0x80002
//   pid 1234                  the process, absent for its own; with `thread` the id of the thread
//   thread 1                  of a single thread (PIDFD_THREAD, Linux 6.9)
//   ended 1                   of one that has ended and been waited for; it has no pid
//   boot 1f0c...              of a process outside the image: /proc/sys/kernel/random/boot_id, and when the process
//   start 4711                began, in clock ticks since boot
//
// A process outside the image is the same one only where it still runs, on the same boot, with that start: any other has
// ended, and the descriptor is made as with `ended`. What PIDFD_GET_INFO tells of an ended one (its exit status) is lost.
#pragma once

#include "engine/kinds/kind.h"

namespace ckpt {

const DescriptorKind& pidfd_kind();

}  // namespace ckpt
