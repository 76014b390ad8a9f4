// A figure for the user: how much processes are made to do for us.
#pragma once

#include <atomic>
#include <cstdint>

namespace ckpt {

/// System calls that other processes have made in their stops for us (remote_syscall.h), since we began.
inline std::atomic<uint64_t> injected_calls{0};

}  // namespace ckpt
