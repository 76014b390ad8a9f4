// From a page's digest to its place, in memory: 16 bytes a slot, at most 30 bytes a page at any time. Only 64 bits of
// the digest are kept; who finds candidates compares the whole digest with the pack's row (PackRow).
#pragma once

#include <array>
#include <cstdint>
#include <mutex>
#include <shared_mutex>
#include <vector>

#include "engine/image/digest.h"
#include "engine/store/format.h"

namespace ckpt {

/// Thread-safe.
class DigestIndex {
 public:
  explicit DigestIndex(size_t shards = 64);

  /// Enough for any honest store: 64 bits are equal by chance once in 2^32 pages. Where somebody has made more, the
  /// rest is not found, and the page is stored again.
  using Candidates = std::array<PageRef, 8>;
  /// Places of pages whose digest begins like this one; returns how many.
  size_t find(const Digest& digest, Candidates& out) const;
  void insert(const Digest& digest, PageRef place);
  /// Nothing happens where it is not there.
  void erase(const Digest& digest, PageRef place);

  uint64_t size() const;
  uint64_t memory_bytes() const;

 private:
  struct Slot {
    uint64_t prefix = 0;
    uint64_t place = 0;    // pack << 8 | slot; 0 for an empty slot, as no pack has the number 0
  };
  struct Shard {
    mutable std::shared_mutex mutex;
    std::vector<Slot> slots;
    size_t used = 0;
  };

  uint64_t mix(uint64_t prefix) const;
  Shard& shard_of(uint64_t mixed) { return shards_[mixed >> 32 & (shards_.size() - 1)]; }
  const Shard& shard_of(uint64_t mixed) const { return shards_[mixed >> 32 & (shards_.size() - 1)]; }
  size_t home(const Shard& shard, uint64_t mixed) const;
  void grow(Shard& shard);
  void place_in(Shard& shard, Slot slot);

  // Contents, hence digests, are chosen by others: a secret factor keeps them from choosing the same slot.
  uint64_t secret_;
  std::vector<Shard> shards_;
};

}  // namespace ckpt
