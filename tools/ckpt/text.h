// Text of the kernel read, and figures shown.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ckpt::tool {

/// Mount points of type fuse.ckptfs in the text of /proc/self/mountinfo.
std::vector<std::string> ckptfs_mounts(std::string_view mountinfo);

/// "1.5 GiB", with three figures.
std::string human_bytes(uint64_t bytes);
/// "1.5 ms", with three figures.
std::string human_time(uint64_t ns);

}  // namespace ckpt::tool
