// Resource limits as /proc/PID/limits shows them. Reading that file wants no right, unlike prlimit(2) of another user's
// process, which wants CAP_SYS_RESOURCE.
#pragma once

#include <sys/resource.h>

#include <string>

namespace ckpt {

/// The name that the file has for a resource (RLIMIT_...).
const char* limit_name(int resource);
/// The limit in the text of such a file. Throws Error(EINVAL), with `where` in its sentence.
rlimit64 parse_limit(const std::string& text, int resource, const std::string& where);

}  // namespace ckpt
