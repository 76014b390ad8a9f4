#include "engine/memory/range_set.h"

#include <algorithm>
#include <iterator>

namespace ckpt {

void RangeSet::add(Range range) {
  if (range.start >= range.end) return;
  auto it = ranges_.upper_bound(range.start);
  if (it != ranges_.begin() && std::prev(it)->second >= range.start) --it;
  while (it != ranges_.end() && it->first <= range.end) {
    range.start = std::min(range.start, it->first);
    range.end = std::max(range.end, it->second);
    bytes_ -= it->second - it->first;
    it = ranges_.erase(it);
  }
  ranges_.emplace(range.start, range.end);
  bytes_ += range.size();
}

std::vector<Range> RangeSet::all() const {
  std::vector<Range> out;
  for (const auto& [start, end] : ranges_) out.push_back({start, end});
  return out;
}

std::vector<Range> RangeSet::within(Range range) const {
  std::vector<Range> out;
  auto it = ranges_.upper_bound(range.start);
  if (it != ranges_.begin() && std::prev(it)->second > range.start) --it;
  for (; it != ranges_.end() && it->first < range.end; ++it) {
    out.push_back({std::max(range.start, it->first), std::min(range.end, it->second)});
  }
  return out;
}

std::vector<Range> RangeSet::outside(Range range) const { return gaps_between(range, within(range)); }

std::vector<Range> gaps_between(Range range, const std::vector<Range>& parts) {
  std::vector<Range> out;
  uint64_t at = range.start;
  for (const Range& part : parts) {
    if (part.start > at) out.push_back({at, std::min(part.start, range.end)});
    at = std::max(at, part.end);
    if (at >= range.end) break;
  }
  if (at < range.end) out.push_back({at, range.end});
  return out;
}

}  // namespace ckpt
