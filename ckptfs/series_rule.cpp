#include "ckptfs/series_rule.h"

#include <algorithm>
#include <array>
#include <utility>

#include "engine/base/record.h"

namespace ckpt {

namespace {

using std::chrono::nanoseconds;

constexpr std::array<std::pair<std::string_view, nanoseconds>, 5> kUnits = {{
    {"ms", std::chrono::milliseconds(1)},
    {"s", std::chrono::seconds(1)},
    {"m", std::chrono::minutes(1)},
    {"h", std::chrono::hours(1)},
    {"d", std::chrono::hours(24)},
}};
constexpr nanoseconds kLongest = std::chrono::hours(24) * 1000;
/// Of one part of keep=.
constexpr uint64_t kMostImages = 1'000'000;

/// A number and what follows it.
struct Quantity {
  uint64_t number = 0;
  std::string_view unit;
};

std::optional<Quantity> parse_quantity(std::string_view text) {
  const size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
  const auto number = parse_u64(text.substr(0, digits));
  if (digits == 0 || !number) return std::nullopt;
  return Quantity{*number, text.substr(digits)};
}

/// The newest image of each of the newest `count` periods.
void keep_newest_of_each(std::span<const uint64_t> times_ns, nanoseconds period, uint64_t count, std::vector<bool>& kept) {
  std::optional<uint64_t> before;
  for (size_t i = times_ns.size(); i-- > 0 && count > 0;) {
    const uint64_t number = times_ns[i] / static_cast<uint64_t>(period.count());
    if (before == number) continue;
    before = number;
    kept[i] = true;
    --count;
  }
}

}  // namespace

std::vector<size_t> Retention::superfluous(std::span<const uint64_t> times_ns) const {
  if (keeps_all() || times_ns.empty()) return {};
  std::vector<bool> kept(times_ns.size());
  kept.back() = true;
  for (size_t i = times_ns.size() - std::min<size_t>(last, times_ns.size()); i < times_ns.size(); ++i) kept[i] = true;
  keep_newest_of_each(times_ns, std::chrono::minutes(1), minutes, kept);
  keep_newest_of_each(times_ns, std::chrono::hours(1), hours, kept);
  keep_newest_of_each(times_ns, std::chrono::hours(24), days, kept);
  std::vector<size_t> goes;
  for (size_t i = 0; i < kept.size(); ++i) {
    if (!kept[i]) goes.push_back(i);
  }
  return goes;
}

std::optional<uint64_t> parse_count(std::string_view text) {
  const auto quantity = parse_quantity(text);
  return quantity && quantity->unit.empty() ? std::optional(quantity->number) : std::nullopt;
}

std::optional<nanoseconds> parse_duration(std::string_view text) {
  const auto quantity = parse_quantity(text);
  if (!quantity) return std::nullopt;
  const auto* unit = std::ranges::find(kUnits, quantity->unit, &std::pair<std::string_view, nanoseconds>::first);
  if (unit == kUnits.end() || quantity->number > static_cast<uint64_t>(kLongest / unit->second)) return std::nullopt;
  return unit->second * static_cast<nanoseconds::rep>(quantity->number);
}

std::optional<Retention> parse_retention(std::string_view text) {
  Retention keep;
  while (!text.empty()) {
    const size_t comma = std::min(text.find(','), text.size());
    const auto part = parse_quantity(text.substr(0, comma));
    if (!part || part->number == 0 || part->number > kMostImages) return std::nullopt;
    uint64_t* to = part->unit.empty() ? &keep.last
                   : part->unit == "m" ? &keep.minutes
                   : part->unit == "h" ? &keep.hours
                   : part->unit == "d" ? &keep.days
                                       : nullptr;
    if (to == nullptr || *to != 0) return std::nullopt;
    *to = part->number;
    if (comma + 1 == text.size()) return std::nullopt;  // nothing after the comma
    text.remove_prefix(std::min(comma + 1, text.size()));
  }
  if (keep.keeps_all()) return std::nullopt;
  return keep;
}

}  // namespace ckpt
