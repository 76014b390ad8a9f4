// What is there of an address space before it is made (inheritance.h).
#pragma once

#include <cstddef>
#include <vector>

#include "engine/memory/range_set.h"

namespace ckpt {

struct Inheritance {
  std::vector<bool> mappings;    ///< by index of the mapping: there, all of it, but for its permissions; empty for none
  std::vector<bool> protect;     ///< has other permissions
  RangeSet pages;                ///< of these: what has content, of whoever it was copied from

  bool any() const { return !mappings.empty(); }
  bool has(size_t mapping) const { return mapping < mappings.size() && mappings[mapping]; }
};

}  // namespace ckpt
