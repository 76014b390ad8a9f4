// Names of images.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace ckpt {

/// "NAME@K": what an image is called that had NAME before another one took it. K counts from 1.
std::string earlier_name(std::string_view name, uint64_t k);

/// The K of an image that is called NAME@K, spelled as above; nothing for any other name.
std::optional<uint64_t> parse_earlier_name(std::string_view image, std::string_view name);

}  // namespace ckpt
