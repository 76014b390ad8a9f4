// The flags of an open file description, as fdinfo shows them, fds/N records them and open(2) takes them.
#pragma once

#include <cstdint>
#include <string>

#include "engine/base/record.h"

namespace ckpt {

/// O_LARGEFILE as the kernel has it; glibc defines it as 0 on x86-64.
inline constexpr uint32_t kLargeFile = 0x8000;

/// "O_RDWR|O_APPEND|O_CLOEXEC", for the human reader; bits without a name in hex.
std::string flag_names(uint32_t flags);

/// The field `flags` of a record, reduced to what may be passed to open(2) without creating, truncating or following
/// anything: access mode, O_APPEND, O_NONBLOCK, O_DSYNC, O_SYNC, O_DIRECT, O_DIRECTORY, O_NOATIME, O_PATH; O_CLOEXEC
/// and O_NOCTTY are always set. O_ASYNC is left to finish_owner. Throws Error(EINVAL) for a malformed field.
int open_flags(const Record& record);

/// Sets the changeable flags of `fd` (O_APPEND, O_NONBLOCK, O_DIRECT, O_NOATIME) as the record says.
void set_status_flags(int fd, const Record& record);

}  // namespace ckpt
