#include "engine/store/row_cache.h"

namespace ckpt {

std::shared_ptr<const PackRow> RowCache::get(uint64_t pack) {
  {
    const std::lock_guard lock(mutex_);
    if (const auto it = rows_.find(pack); it != rows_.end()) {
      ages_.splice(ages_.begin(), ages_, it->second.age);
      return it->second.row;
    }
  }
  rocksdb::PinnableSlice value;
  const rocksdb::Status status = db_->Get(rocksdb::ReadOptions(), db_.index, pack_key(pack), &value);
  if (!status.ok()) fail(EIO, "the digests of pack {} cannot be read: {}", pack, status.ToString());
  auto row = std::make_shared<const PackRow>(decode_row(value.ToStringView(), fmt::format("pack {}", pack)));
  put(pack, row);
  return row;
}

void RowCache::put(uint64_t pack, std::shared_ptr<const PackRow> row) {
  const std::lock_guard lock(mutex_);
  if (rows_.contains(pack)) return;
  ages_.push_front(pack);
  rows_[pack] = {std::move(row), ages_.begin()};
  if (rows_.size() <= kRows) return;
  rows_.erase(ages_.back());
  ages_.pop_back();
}

void RowCache::erase(uint64_t pack) {
  const std::lock_guard lock(mutex_);
  const auto it = rows_.find(pack);
  if (it == rows_.end()) return;
  ages_.erase(it->second.age);
  rows_.erase(it);
}

}  // namespace ckpt
