// Bytes as lower-case hex digits, for records.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace ckpt {

std::string to_hex(std::span<const std::byte> bytes);
/// Nothing unless the text is an even number of hex digits.
std::optional<std::vector<std::byte>> from_hex(std::string_view text);

}  // namespace ckpt
