// epoll instances. What they watch is added with epoll_ctl in the process when every descriptor stands at its number;
// which of it is ready the kernel finds out again. An edge-triggered watch reports a state that holds once more.
//
//   type epoll
//   target anon_inode:[eventpoll]
//   flags 0x80002
//   watch 7 0x19 0x7         descriptor, EPOLL events, data; one line each
#pragma once

#include "engine/kinds/kind.h"

namespace ckpt {

const DescriptorKind& epoll_kind();

}  // namespace ckpt
