// A table file of packs beside the database.
#pragma once

#include <rocksdb/sst_file_writer.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/store/store_core.h"

namespace ckpt {

/// A table file that is being written, with the rows of its packs. At the end it is removed from the disk, unless it was
/// ingested, which has moved it. Throws Error(ENOSPC, EIO). Not thread-safe.
class PackFile {
 public:
  static constexpr uint64_t kIds = 512;   ///< reserved for a file, whether it takes as many packs or not

  struct Pack {
    uint64_t id;
    PackRow row;
  };

  explicit PackFile(StoreCore& core);
  ~PackFile();
  PackFile(const PackFile&) = delete;
  PackFile& operator=(const PackFile&) = delete;

  const std::string& path() const { return path_; }
  uint64_t first_id() const { return first_; }
  const std::vector<Pack>& packs() const { return packs_; }

  /// For the next pack. Packs are put in the order of their ids.
  uint64_t take_id() { return next_++; }
  /// Whether the id was taken from here.
  bool has(uint64_t id) const { return id >= first_ && id < next_; }
  void put(uint64_t id, std::span<const std::byte> pages, PackRow row);
  /// Has no room for another pack.
  bool full() const;
  /// No pack is put any more.
  void finish();

 private:
  std::string path_;
  std::unique_ptr<rocksdb::SstFileWriter> writer_;
  uint64_t first_ = 0, next_ = 0;
  uint64_t bytes_ = 0;
  std::vector<Pack> packs_;
};

}  // namespace ckpt
