// timerfd_create(2).
//
//   type timerfd
//   target anon_inode:[timerfd]
//   flags 0x802
//   clockid 1
//   settime_flags 0x1        TFD_TIMER_ABSTIME, TFD_TIMER_CANCEL_ON_SET, as last given to timerfd_settime
//   value_ns 500000000       time left until it expires, 0 for a disarmed one
//   expires_ns 17...         instead of value_ns for an absolute time of the real-time clock, which is kept as it is:
//                            nanoseconds since 1970
//   interval_ns 0            of a periodic timer
//   ticks 3                  expirations that are waiting to be read
#pragma once

#include "engine/kinds/kind.h"

namespace ckpt {

const DescriptorKind& timerfd_kind();

}  // namespace ckpt
