// What the memory of measurements is filled with.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace ckpt::bench {

/// Unique pages: no two alike, none zero.
inline void fill_unique(std::span<std::byte> memory, uint64_t seed) {
  // xorshift64: every word differs, so every page does, and none compresses.
  uint64_t x = seed * 0x9e3779b97f4a7c15 + 1;
  for (size_t i = 0; i + sizeof x <= memory.size(); i += sizeof x) {
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    std::memcpy(&memory[i], &x, sizeof x);
  }
}

}  // namespace ckpt::bench
