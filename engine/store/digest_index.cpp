#include "engine/store/digest_index.h"

#include <bit>
#include <cstring>
#include <random>

namespace ckpt {

namespace {

uint64_t prefix_of(const Digest& digest) {
  uint64_t prefix;
  std::memcpy(&prefix, digest.bytes.data(), sizeof prefix);
  return prefix;
}

uint64_t pack_place(PageRef ref) { return ref.pack << 8 | ref.slot; }
PageRef unpack_place(uint64_t place) { return {place >> 8, static_cast<uint16_t>(place & 0xff)}; }

}  // namespace

DigestIndex::DigestIndex(size_t shards) : shards_(std::bit_ceil(shards)) {
  std::random_device random;
  secret_ = (uint64_t{random()} << 32 | random()) | 1;
}

uint64_t DigestIndex::mix(uint64_t prefix) const {
  uint64_t x = prefix * secret_;
  x ^= x >> 32;
  return x * secret_;
}

size_t DigestIndex::home(const Shard& shard, uint64_t mixed) const {
  return static_cast<size_t>(static_cast<unsigned __int128>(mixed) * shard.slots.size() >> 64);
}

size_t DigestIndex::find(const Digest& digest, Candidates& out) const {
  const uint64_t prefix = prefix_of(digest);
  const uint64_t mixed = mix(prefix);
  const Shard& shard = shard_of(mixed);
  const std::shared_lock lock(shard.mutex);
  if (shard.slots.empty()) return 0;
  size_t found = 0;
  for (size_t i = home(shard, mixed); shard.slots[i].place != 0; i = i + 1 == shard.slots.size() ? 0 : i + 1) {
    if (shard.slots[i].prefix != prefix) continue;
    out[found++] = unpack_place(shard.slots[i].place);
    if (found == out.size()) break;
  }
  return found;
}

void DigestIndex::place_in(Shard& shard, Slot slot) {
  size_t i = home(shard, mix(slot.prefix));
  while (shard.slots[i].place != 0) i = i + 1 == shard.slots.size() ? 0 : i + 1;
  shard.slots[i] = slot;
}

void DigestIndex::grow(Shard& shard) {
  // By a half, from four fifths full to 53%: 30 bytes a page at worst, and one shard at a time.
  std::vector<Slot> old(std::max<size_t>(16, shard.slots.size() * 3 / 2));
  old.swap(shard.slots);
  for (const Slot& slot : old) {
    if (slot.place != 0) place_in(shard, slot);
  }
}

void DigestIndex::insert(const Digest& digest, PageRef place) {
  const uint64_t prefix = prefix_of(digest);
  Shard& shard = shard_of(mix(prefix));
  const std::unique_lock lock(shard.mutex);
  if ((shard.used + 1) * 5 > shard.slots.size() * 4) grow(shard);
  place_in(shard, {prefix, pack_place(place)});
  ++shard.used;
}

void DigestIndex::erase(const Digest& digest, PageRef place) {
  const uint64_t prefix = prefix_of(digest);
  const uint64_t mixed = mix(prefix);
  Shard& shard = shard_of(mixed);
  const std::unique_lock lock(shard.mutex);
  std::vector<Slot>& slots = shard.slots;
  if (slots.empty()) return;
  const auto next = [&](size_t i) { return i + 1 == slots.size() ? 0 : i + 1; };
  size_t hole = home(shard, mixed);
  while (slots[hole].place != 0 && slots[hole].place != pack_place(place)) hole = next(hole);
  if (slots[hole].place == 0) return;
  // Close the gap: move back each follower that may stand there, that is, whose home is not between hole and it.
  for (size_t i = next(hole); slots[i].place != 0; i = next(i)) {
    const size_t wanted = home(shard, mix(slots[i].prefix));
    const bool stays = hole < i ? hole < wanted && wanted <= i : hole < wanted || wanted <= i;
    if (stays) continue;
    slots[hole] = slots[i];
    hole = i;
  }
  slots[hole] = {};
  --shard.used;
}

uint64_t DigestIndex::size() const {
  uint64_t total = 0;
  for (const Shard& shard : shards_) {
    const std::shared_lock lock(shard.mutex);
    total += shard.used;
  }
  return total;
}

uint64_t DigestIndex::memory_bytes() const {
  uint64_t total = 0;
  for (const Shard& shard : shards_) {
    const std::shared_lock lock(shard.mutex);
    total += shard.slots.capacity() * sizeof(Slot);
  }
  return total;
}

}  // namespace ckpt
