#include "ckptfs/late_file.h"

#include <algorithm>

#include "engine/base/error.h"

namespace ckpt {

void LateFile::write(uint64_t offset, std::span<const std::byte> data) {
  in_order_ = in_order_ && offset == size_;
  size_ = std::max(size_, offset + data.size());
  while (in_order_ && !data.empty()) {
    const auto piece = data.first(std::min(data.size(), kBlockSize - block_.size()));
    block_.insert(block_.end(), piece.begin(), piece.end());
    data = data.subspan(piece.size());
    if (block_.size() < kBlockSize) continue;
    blocks_.push_back(digest_file(block_));
    block_.clear();
  }
}

void LateFile::read(uint64_t, std::span<std::byte> out) const { std::ranges::fill(out, std::byte{0}); }

void LateFile::truncate(uint64_t size) {
  if (size == size_) return;
  in_order_ = size == 0;
  size_ = size;
  block_.clear();
  blocks_.clear();
}

uint64_t LateFile::copy_from(const ImageSource& source, std::string_view path, uint64_t source_offset, uint64_t offset,
                             uint64_t length) {
  source.visit(path, source_offset, length, [&](uint64_t at, std::span<const std::byte> piece) {
    write(offset + (at - source_offset), piece);
  });
  return length;
}

Digest LateFile::digest() const {
  if (!in_order_) fail(EOPNOTSUPP, "what comes after a resume is compared only where it is written in order");
  std::vector<Digest> parts = blocks_;
  if (!block_.empty() || parts.empty()) parts.push_back(digest_file(block_));
  return combine_digests(parts);
}

}  // namespace ckpt
