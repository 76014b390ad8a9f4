// How values stand in a manifest; shared by its writer and its parser.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace ckpt {

/// How a file's digest is made of its pages (digest.h).
inline constexpr std::string_view kDigestScheme = "blake3-4k-1m";

/// Bytes of a path or a name as a JSON string can hold them: control bytes and backslash as \ooo, and where the
/// bytes are no UTF-8, every byte above 0x7f too. unescape() (record.h) gives the bytes back.
std::string json_safe(std::string_view raw);

/// Nanoseconds since 1970 as 2026-11-23T19:57:00.000000000Z, and back (nothing for any other text).
std::string format_time(uint64_t time_ns);
std::optional<uint64_t> parse_time(std::string_view text);

}  // namespace ckpt
