#include "engine/process/proc_status.h"

#include <algorithm>

#include "engine/base/record.h"

namespace ckpt {

std::string status_field(std::string_view text, std::string_view name) {
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.size() <= name.size() || !line.starts_with(name) || line[name.size()] != ':') continue;
    const size_t value = line.find_first_not_of(" \t", name.size() + 1);
    return value == std::string_view::npos ? std::string() : std::string(line.substr(value));
  }
  return {};
}

uint64_t status_mask(std::string_view text, std::string_view name) {
  return parse_u64("0x" + status_field(text, name)).value_or(0);
}

}  // namespace ckpt
