#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "engine/memory/range_set.h"

namespace ckpt {
namespace {

TEST(RangeSetTest, JoinsAndCuts) {
  RangeSet set;
  std::vector<bool> model(64);
  std::mt19937 random(1);
  for (int round = 0; round < 2000; ++round) {
    if (round % 40 == 0) {
      set.clear();
      model.assign(64, false);
    }
    const uint64_t a = random() % 64, b = a + random() % (65 - a);
    set.add({a, b});
    for (uint64_t i = a; i < b; ++i) model[i] = true;
    EXPECT_EQ(set.bytes(), static_cast<uint64_t>(std::ranges::count(model, true)));
    const uint64_t from = random() % 64, to = from + random() % (65 - from);
    std::vector<bool> in(64), out(64);
    for (const Range& r : set.within({from, to})) {
      for (uint64_t i = r.start; i < r.end; ++i) in[i] = true;
    }
    for (const Range& r : set.outside({from, to})) {
      for (uint64_t i = r.start; i < r.end; ++i) out[i] = true;
    }
    for (uint64_t i = 0; i < 64; ++i) {
      const bool inside = i >= from && i < to;
      ASSERT_EQ(in[i], inside && model[i]);
      ASSERT_EQ(out[i], inside && !model[i]);
    }
  }
}

}  // namespace
}  // namespace ckpt
