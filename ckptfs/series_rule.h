// What a series of checkpoints is told: how often, until when, and which of its images stay.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace ckpt {

/// Which images of a series stay, as in `keep=10,60m,24h,7d`: the newest 10; of the newest 60 minutes, 24 hours and 7 days
/// that have an image, the newest of each. Minutes, hours and days are those of UTC. An image stays that any part wants.
struct Retention {
  uint64_t last = 0;
  uint64_t minutes = 0;
  uint64_t hours = 0;
  uint64_t days = 0;

  /// Nothing was said: all stay.
  bool keeps_all() const { return last == 0 && minutes == 0 && hours == 0 && days == 0; }
  /// Of images by their times (ns since 1970), in the order they were taken, the indexes of those that go, ascending. The
  /// newest never goes. Where the clock was set back, it is the order that tells which image is the newer one.
  std::vector<size_t> superfluous(std::span<const uint64_t> times_ns) const;
};

struct SeriesRule {
  std::chrono::nanoseconds every{0};
  Retention keep;
  uint64_t until_count = 0;                 ///< ends with so many images; 0 for never
  std::chrono::nanoseconds until_time{0};   ///< ends when so much time has passed; 0 for never
};

/// A decimal number alone.
std::optional<uint64_t> parse_count(std::string_view text);
/// "500ms", "1s", "5m", "2h", "1d". Nothing for other text, or for more than 1000 days.
std::optional<std::chrono::nanoseconds> parse_duration(std::string_view text);
/// As in `keep=`. Nothing for text that is no such list, or keeps nothing.
std::optional<Retention> parse_retention(std::string_view text);

}  // namespace ckpt
