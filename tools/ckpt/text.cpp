#include "tools/ckpt/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "engine/base/record.h"

namespace ckpt::tool {

std::vector<std::string> ckptfs_mounts(std::string_view mountinfo) {
  std::vector<std::string> mounts;
  while (!mountinfo.empty()) {
    const size_t end = std::min(mountinfo.find('\n'), mountinfo.size());
    const auto words = split_words(mountinfo.substr(0, end));
    mountinfo.remove_prefix(std::min(end + 1, mountinfo.size()));
    // ID PARENT MAJOR:MINOR ROOT MOUNTPOINT OPTIONS [TAGS...] - TYPE SOURCE SUPEROPTIONS:
    // proc_pid_mountinfo(5)
    for (size_t i = 6; i + 1 < words.size(); ++i) {
      if (words[i] != "-") continue;
      if (words[i + 1] == "fuse.ckptfs") mounts.push_back(unescape(words[4]).value_or(words[4]));
      break;
    }
  }
  return mounts;
}

std::string human_bytes(uint64_t bytes) {
  constexpr std::array units{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  for (; value >= 1000 && unit + 1 < units.size(); ++unit) value /= 1024;
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.3g} {}", value, units[unit]);
}

std::string human_time(uint64_t ns) {
  constexpr std::array units{"ns", "us", "ms", "s"};
  double value = static_cast<double>(ns);
  size_t unit = 0;
  for (; value >= 1000 && unit + 1 < units.size(); ++unit) value /= 1000;
  return fmt::format("{:.4g} {}", value, units[unit]);
}

}  // namespace ckpt::tool
