// A set of pages, kept as disjoint ranges.
#pragma once

#include <map>
#include <vector>

#include "engine/image/maps.h"

namespace ckpt {

/// Page-aligned ranges; neighbours are joined. Not thread-safe.
class RangeSet {
 public:
  void add(Range range);
  void clear() {
    ranges_.clear();
    bytes_ = 0;
  }
  uint64_t bytes() const { return bytes_; }
  std::vector<Range> all() const;
  /// The parts of `range` that are in the set, ascending; and those that are not.
  std::vector<Range> within(Range range) const;
  std::vector<Range> outside(Range range) const;

 private:
  std::map<uint64_t, uint64_t> ranges_;   // start -> end
  uint64_t bytes_ = 0;
};

/// The parts of `range` that no one of the ascending, disjoint `parts` covers.
std::vector<Range> gaps_between(Range range, const std::vector<Range>& parts);

}  // namespace ckpt
