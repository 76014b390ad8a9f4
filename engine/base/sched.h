// What glibc 2.36 lacks of <sched.h>.
#pragma once

#include <cstdint>

namespace ckpt {

/// struct sched_attr, first version (sched_setattr(2)).
struct SchedAttr {
  uint32_t size = sizeof(SchedAttr);
  uint32_t policy = 0;
  uint64_t flags = 0;
  int32_t nice = 0;
  uint32_t priority = 0;
  uint64_t runtime = 0;  ///< ns; of SCHED_OTHER and SCHED_BATCH the length of a slice, from Linux 6.12 on
  uint64_t deadline = 0;
  uint64_t period = 0;
};
static_assert(sizeof(SchedAttr) == 48);

/// For a thread that answers quickly what others wait for: when it wakes up it gets a CPU at once, for 0.1 ms at a time. Of
/// the calling thread, and of those that it will start. Less of it happens without CAP_SYS_NICE, or before Linux 6.12.
void go_first() noexcept;

/// For long work that nobody waits for: a thread that wakes up takes the CPU from it, where among equals it would wait
/// for the next tick of the clock (4 ms, often) or for the end of a slice. The work is five steps nicer, and has slices
/// twice as long where the kernel lets one choose (Linux 6.12), which in its order of deadlines comes to the same. Of the
/// calling thread, and of those that it will start; an unprivileged one cannot take it back.
void give_way() noexcept;

}  // namespace ckpt
