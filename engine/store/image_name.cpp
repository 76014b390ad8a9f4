#include "engine/store/image_name.h"

#include <fmt/format.h>

#include "engine/base/record.h"

namespace ckpt {

std::string earlier_name(std::string_view name, uint64_t k) { return fmt::format("{}@{}", name, k); }

std::optional<uint64_t> parse_earlier_name(std::string_view image, std::string_view name) {
  if (image.size() <= name.size() || !image.starts_with(name)) return std::nullopt;
  const auto k = parse_u64(image.substr(name.size() + 1));
  return k && image == earlier_name(name, *k) ? k : std::nullopt;
}

}  // namespace ckpt
