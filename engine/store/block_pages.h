// The pages of one block on their way into the store.
#pragma once

#include <algorithm>
#include <array>
#include <bitset>
#include <span>

#include "engine/store/row_cache.h"

namespace ckpt {

/// The pages of one block, and what is known of each: the digest, and the place in a pack once it is found or written. Of the
/// caller's memory, which must stay. Not thread-safe.
struct BlockPages {
  /// Throws Error(EINVAL) unless there are 1 to kBlockSize bytes.
  explicit BlockPages(std::span<const std::byte> data);

  std::span<const std::byte> page(size_t i) const {
    const size_t at = i * kPageSize;
    return data.subspan(at, std::min(kPageSize, data.size() - at));
  }
  /// Pages from byte `at` on lie in a pack. False, with nothing done, where their digests are not to be had.
  bool refer(size_t at, size_t n, PageRef first, RowCache& rows);
  /// Of those whose place is not known.
  void digest_all();
  /// Asks for the place of each page that has none yet: `find(digest, place)` returns whether there is one, and which.
  template <typename F>
  void find_unknown(F&& find);
  /// When every place is known.
  Block block() const;

  std::span<const std::byte> data;
  size_t count;
  std::array<Digest, kPagesPerBlock> digests;
  std::array<PageRef, kPagesPerBlock> places;      ///< kZeroPack for a page of zeros
  std::bitset<kPagesPerBlock> referred;            ///< place and digest were known from the start
  std::array<uint16_t, kPagesPerBlock> unknown;    ///< pages whose place is not known yet
  size_t unknown_count = 0;
};

template <typename F>
void BlockPages::find_unknown(F&& find) {
  size_t left = 0;
  for (size_t k = 0; k < unknown_count; ++k) {
    const uint16_t i = unknown[k];
    if (!find(digests[i], places[i])) unknown[left++] = i;
  }
  unknown_count = left;
}

}  // namespace ckpt
