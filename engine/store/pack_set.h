// A set of pack ids, which come in long runs: 64 bytes for 512 neighbours.
#pragma once

#include <array>
#include <cstdint>
#include <unordered_map>

namespace ckpt {

/// Not thread-safe.
class PackSet {
 public:
  void add(uint64_t pack) { groups_[pack / kGroup][pack % kGroup / 64] |= 1ULL << (pack % 64); }
  bool has(uint64_t pack) const {
    const auto it = groups_.find(pack / kGroup);
    return it != groups_.end() && (it->second[pack % kGroup / 64] >> (pack % 64) & 1) != 0;
  }
  void add_all(const PackSet& other) {
    for (const auto& [key, words] : other.groups_) {
      auto& mine = groups_[key];
      for (size_t i = 0; i < words.size(); ++i) mine[i] |= words[i];
    }
  }
  void clear() { groups_.clear(); }

 private:
  static constexpr uint64_t kGroup = 512;
  std::unordered_map<uint64_t, std::array<uint64_t, kGroup / 64>> groups_;
};

}  // namespace ckpt
