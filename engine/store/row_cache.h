// The rows of the packs that were met last, decoded.
#pragma once

#include <list>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "engine/store/database.h"

namespace ckpt {

/// Thread-safe. Up to 2048 rows, 16 MiB.
class RowCache {
 public:
  explicit RowCache(const Database& db) : db_(db) {}
  /// The row of a pack. Throws Error(EIO) where it is missing or damaged.
  std::shared_ptr<const PackRow> get(uint64_t pack);
  void put(uint64_t pack, std::shared_ptr<const PackRow> row);
  void erase(uint64_t pack);

 private:
  static constexpr size_t kRows = 2048;
  struct Entry {
    std::shared_ptr<const PackRow> row;
    std::list<uint64_t>::iterator age;
  };
  const Database& db_;
  std::mutex mutex_;
  std::unordered_map<uint64_t, Entry> rows_;
  std::list<uint64_t> ages_;   // newest first
};

}  // namespace ckpt
