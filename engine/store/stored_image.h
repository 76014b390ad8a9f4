// A finished image in the store, and reading of files that lie in packs.
#pragma once

#include <functional>

#include "engine/store/store_core.h"

namespace ckpt {

/// Gives access to one run of pages after the other; it is valid until the next call.
using PackAccess = std::function<std::span<const std::byte>(const Extent&)>;

/// Packs of the database; the one of the last call stays pinned, so that neighbours cost one read.
class PackReader {
 public:
  explicit PackReader(const Database& db) : db_(db) {}
  std::span<const std::byte> operator()(const Extent& extent);

 private:
  const Database& db_;
  uint64_t pack_ = kZeroPack;
  std::shared_ptr<const rocksdb::PinnableSlice> value_;
  PackView view_;
};

/// ImageSource::visit for a part of one block that begins at `block_start` of its file; no extents stand for zeros.
void visit_block(std::span<const Extent> extents, uint64_t block_start, uint64_t offset, uint64_t length,
                 const PackAccess& packs, const ImageSource::Visitor& v);

class RocksImage : public StoredImage {
 public:
  using Files = std::vector<std::shared_ptr<const FileRecord>>;

  /// `files` stand in the order of `entries`.
  RocksImage(std::shared_ptr<StoreCore> core, ImageInfo info, std::vector<ImageEntry> entries, Files files)
      : core_(std::move(core)), info_(std::move(info)), entries_(std::move(entries)), files_(std::move(files)) {}

  ~RocksImage() override { core_->let_go(); }

  /// Reads an image's rows, as of the snapshot if there is one. Throws Error(EIO).
  static std::shared_ptr<RocksImage> load(const std::shared_ptr<StoreCore>& core, const ImageInfo& info,
                                          const rocksdb::Snapshot* snapshot = nullptr);

  const ImageInfo& info() const override { return info_; }
  std::string describe() const override { return "images/" + info_.name; }
  const std::vector<ImageEntry>& entries() const override { return entries_; }
  std::string read_link(std::string_view path) const override;
  void visit(std::string_view path, uint64_t offset, uint64_t length, const Visitor& v) const override;
  Digest digest(std::string_view path) const override;

  const Files& files() const { return files_; }
  const std::shared_ptr<StoreCore>& core() const { return core_; }
  /// ENOENT names image and path.
  const FileRecord& file(std::string_view path) const;

 private:
  std::shared_ptr<StoreCore> core_;
  ImageInfo info_;
  std::vector<ImageEntry> entries_;
  Files files_;
};

/// Throws Error(EINVAL) unless [offset, offset + length) lies within `size` bytes.
void check_range(uint64_t size, uint64_t offset, uint64_t length, const std::string& where, std::string_view path);

}  // namespace ckpt
