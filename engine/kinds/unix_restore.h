// The unix sockets of an image made again, all together: each is tied to others.
#pragma once

#include "engine/kinds/kind.h"

namespace ckpt {

/// Checks objects/unix-N and what is under way in it, makes the latter with the rights of the caller, and returns a
/// placeholder. Throws Error(EINVAL) for what is malformed.
UniqueFd plan_unix_socket(const RestoreContext& ctx, const std::string& object, const std::string& where);

/// A descriptor of the socket. The first call makes all sockets of the image, with the system calls of the process where
/// the kernel notes who made them. Throws Error: EINVAL for an image that contradicts itself, EADDRINUSE, EPERM.
UniqueFd take_unix_socket(const RestoreContext& ctx, const std::string& object, const std::string& where);

}  // namespace ckpt
