#include "engine/store/file_node.h"

#include <algorithm>

namespace ckpt {

namespace {

Digest zero_digest(size_t bytes) {
  static const std::vector<std::byte> zeros(kBlockSize);
  static const Digest whole = digest_file(zeros);
  return bytes == kBlockSize ? whole : digest_file(std::span(zeros).first(bytes));
}

}  // namespace

FileNode::~FileNode() { files_->small_bytes -= content_.size(); }

void FileNode::set_target(std::string_view target) {
  const std::lock_guard lock(mutex_);
  type_ = EntryType::symlink;
  content_ = target;
  set_size(target.size());
  files_->small_bytes += target.size();
}

std::string FileNode::target() const {
  const std::lock_guard lock(mutex_);
  return content_;
}

void FileNode::expect_blocks(uint64_t size) {
  const std::lock_guard lock(mutex_);
  if (size > kMaxFileBytes) fail(EFBIG, "{}: {} bytes are too many for a file of an image", name_, size);
  expected_ = true;
  small_ = fits_inline(size);
  set_size(size);
}

void FileNode::check_block(uint64_t index, size_t bytes) const {
  if (index >= block_count(size_) || bytes != block_bytes(size_, index)) {
    fail(EINVAL, "{}: block {} of {} bytes does not fit in {} bytes", name_, index, bytes, size_.load());
  }
}

void FileNode::add_block(uint64_t index, Block block) {
  const std::lock_guard lock(mutex_);
  if (!blocks_.emplace(index, std::move(block)).second) fail(EINVAL, "{}: block {} came twice", name_, index);
}

void FileNode::put_block(uint64_t index, std::span<const std::byte> data) {
  check_block(index, data.size());
  if (small_) {
    const std::lock_guard lock(mutex_);
    if (content_.size() == data.size()) fail(EINVAL, "{}: block {} came twice", name_, index);
    content_.assign(as_slice(data).data(), data.size());
    files_->small_bytes += content_.size();
    return;
  }
  add_block(index, files_->packs.store(data));
}

bool FileNode::put_block(uint64_t index, std::span<std::byte> data, const RocksImage& base,
                         std::span<const SamePages> same) {
  if (small_ || base.core().get() != &files_->packs.core()) return false;
  check_block(index, data.size());
  if (same.size() == 1 && same[0].bytes == data.size() && same[0].offset % kBlockSize == 0) {
    const FileRecord& file = base.file(same[0].path);
    const uint64_t at = same[0].offset / kBlockSize;
    if (!file.inlined && at < file.blocks.size() && block_bytes(file.size, at) == data.size()) {
      files_->packs.pin(file.blocks[at].extents);
      add_block(index, file.blocks[at]);
      return true;
    }
  }
  add_block(index, files_->packs.store(data, base, same));
  return true;
}

void FileNode::set_small(uint64_t size) {
  files_->small_bytes += size - content_.size();
  content_.resize(size);
  set_size(size);
}

// Turns the content into the open block 0: what is small is never more than one block.
void FileNode::leave_small() {
  if (!small_) return;
  small_ = false;
  const auto bytes = std::as_bytes(std::span(content_));
  if (!bytes.empty()) {
    buffer_.assign(bytes.begin(), bytes.end());
    open_ = 0;
    dirty_ = true;
  }
  files_->small_bytes -= content_.size();
  content_ = {};
}

void FileNode::close_block() {
  if (!open_) return;
  if (dirty_) blocks_[*open_] = files_->packs.store(buffer_);
  open_.reset();
  dirty_ = false;
  buffer_ = {};
}

void FileNode::open_block(uint64_t index) {
  if (open_ == index) return;
  close_block();
  std::vector<std::byte> bytes(block_bytes(size_, index));
  if (const auto it = blocks_.find(index); it != blocks_.end()) {
    const uint64_t start = index * kBlockSize;
    visit_block(it->second.extents, start, start, bytes.size(), files_->packs.access(),
                [&](uint64_t at, std::span<const std::byte> piece) {
                  std::memcpy(bytes.data() + (at - start), piece.data(), piece.size());
                });
  }
  buffer_ = std::move(bytes);
  open_ = index;
}

// Every block in the map has the length that the file's size gives it: the one at the edge is made anew.
void FileNode::resize(uint64_t size) {
  if (size > kMaxFileBytes) fail(EFBIG, "{}: {} bytes are too many for a file of an image", name_, size);
  if (size == size_) return;
  if (small_ && size <= kInlineMax && files_->small_bytes + size <= BuilderFiles::kSmallLimit) return set_small(size);
  leave_small();
  const uint64_t old = size_;
  const uint64_t edge = std::min(old, size);
  const uint64_t at_edge = edge / kBlockSize;
  const bool changes = edge % kBlockSize != 0 && block_bytes(old, at_edge) != block_bytes(size, at_edge);
  if (changes && (open_ == at_edge || blocks_.contains(at_edge))) {
    open_block(at_edge);
    buffer_.resize(block_bytes(size, at_edge));
    dirty_ = true;
    blocks_.erase(at_edge);
  }
  if (open_ && *open_ >= block_count(size)) {
    open_.reset();
    dirty_ = false;
    buffer_ = {};
  }
  blocks_.erase(blocks_.lower_bound(block_count(size)), blocks_.end());
  set_size(size);
  if (size == 0) small_ = true;
}

void FileNode::settle() noexcept {
  try {
    const std::lock_guard lock(mutex_);
    close_block();
  } catch (const std::exception&) {
    // The block is still open, and the pack builder remembers.
  }
}

void FileNode::truncate(uint64_t size) {
  const std::lock_guard lock(mutex_);
  resize(size);
}

void FileNode::write_block(uint64_t index, size_t at, std::span<const std::byte> data) {
  if (data.size() == kBlockSize) {   // all of it: what was there need not be read
    if (open_ == index) {
      open_.reset();
      dirty_ = false;
    }
    blocks_[index] = files_->packs.store(data);
    return;
  }
  open_block(index);
  std::memcpy(buffer_.data() + at, data.data(), data.size());
  dirty_ = true;
  blocks_.erase(index);
}

void FileNode::write(uint64_t offset, std::span<const std::byte> data) {
  if (data.empty()) return;
  const std::lock_guard lock(mutex_);
  if (offset > kMaxFileBytes || data.size() > kMaxFileBytes - offset) {
    fail(EFBIG, "{}: a file of an image has at most {} bytes", name_, kMaxFileBytes);
  }
  if (offset + data.size() > size_) resize(offset + data.size());
  if (small_) {
    std::memcpy(content_.data() + offset, data.data(), data.size());
    return;
  }
  while (!data.empty()) {
    const uint64_t at = offset % kBlockSize;
    const size_t bytes = std::min<uint64_t>(data.size(), kBlockSize - at);
    write_block(offset / kBlockSize, at, data.first(bytes));
    offset += bytes;
    data = data.subspan(bytes);
  }
}

void FileNode::visit(uint64_t offset, uint64_t length, const ImageSource::Visitor& v) {
  const std::lock_guard lock(mutex_);
  check_range(size_, offset, length, "image under construction", name_);
  if (length == 0) return;
  if (small_) return v(offset, std::as_bytes(std::span(content_)).subspan(offset, length));
  const PackAccess packs = files_->packs.access();
  for (const uint64_t end = offset + length; offset < end;) {
    const uint64_t index = offset / kBlockSize;
    const uint64_t start = index * kBlockSize;
    const uint64_t bytes = std::min(end - offset, start + kBlockSize - offset);
    if (open_ == index) {
      v(offset, std::span(buffer_).subspan(offset - start, bytes));
    } else {
      const auto it = blocks_.find(index);
      visit_block(it == blocks_.end() ? std::span<const Extent>() : it->second.extents, start, offset, bytes, packs, v);
    }
    offset += bytes;
  }
}

void FileNode::read(uint64_t offset, std::span<std::byte> out) {
  const uint64_t size = size_;
  const size_t there = offset < size ? std::min<uint64_t>(out.size(), size - offset) : 0;
  if (there > 0) {
    visit(offset, there, [&](uint64_t at, std::span<const std::byte> piece) {
      std::memcpy(out.data() + (at - offset), piece.data(), piece.size());
    });
  }
  std::memset(out.data() + there, 0, out.size() - there);
}

void FileNode::share_block(uint64_t index, const Block& block, size_t bytes) {
  const std::lock_guard lock(mutex_);
  const uint64_t end = index * kBlockSize + bytes;
  leave_small();
  if (end > size_) resize(end);
  if (open_ == index) {
    open_.reset();
    dirty_ = false;
    buffer_ = {};
  }
  if (block.extents.empty()) {
    blocks_.erase(index);
  } else {
    blocks_[index] = block;
  }
}

std::optional<Block> FileNode::shareable_block(uint64_t index) {
  const std::lock_guard lock(mutex_);
  if (small_ || (open_ == index && dirty_)) return std::nullopt;
  const auto it = blocks_.find(index);
  return it == blocks_.end() ? Block{} : it->second;
}

Digest FileNode::block_digest(uint64_t index) const {
  const auto it = blocks_.find(index);
  return it == blocks_.end() ? zero_digest(block_bytes(size_, index)) : it->second.digest;
}

Digest FileNode::digest() {
  const std::lock_guard lock(mutex_);
  if (small_ || type_ == EntryType::symlink) return digest_file(std::as_bytes(std::span(content_)));
  close_block();
  std::vector<Digest> blocks(block_count(size_));
  for (uint64_t i = 0; i < blocks.size(); ++i) blocks[i] = block_digest(i);
  return combine_digests(blocks);
}

FileRecord FileNode::record() {
  FileRecord out;
  {
    const std::lock_guard lock(mutex_);
    const bool short_of_blocks = small_ ? content_.size() < size_ : blocks_.size() < block_count(size_);
    if (expected_ && short_of_blocks) fail(EINVAL, "{}: not all of its blocks have been written", name_);
    if (small_ && type_ == EntryType::file && !fits_inline(size_)) leave_small();
    close_block();
    out.type = type_;
    out.size = size_;
    out.inlined = small_ || type_ == EntryType::symlink;
    out.content = content_;
    if (!out.inlined) out.blocks.resize(block_count(size_));
    for (uint64_t i = 0; i < out.blocks.size(); ++i) {
      const auto it = blocks_.find(i);
      if (it != blocks_.end()) {
        out.blocks[i] = it->second;
      } else {
        const size_t bytes = block_bytes(size_, i);
        out.blocks[i] = {zero_digest(bytes), {{kZeroPack, 0, static_cast<uint16_t>(page_count(bytes))}}};
      }
    }
  }
  out.digest = digest();
  return out;
}

}  // namespace ckpt
