// One file or link of an image under construction.
#pragma once

#include <map>

#include "engine/store/pack_builder.h"

namespace ckpt {

/// Files larger than this are refused: their table of blocks alone would fill the memory.
inline constexpr uint64_t kMaxFileBytes = 4ULL << 40;

/// What the files of one builder share.
struct BuilderFiles {
  explicit BuilderFiles(std::shared_ptr<StoreCore> core) : packs(std::move(core)) {}
  PackBuilder packs;
  /// Content that is held in memory as a whole; beyond the limit small files become blocks too.
  std::atomic<uint64_t> small_bytes = 0;
  static constexpr uint64_t kSmallLimit = 32 << 20;
  /// Grows with every change of a size.
  std::atomic<uint64_t> changes = 0;
};

/// Thread-safe. A file is small (content in memory) until it grows; then it is a map of blocks, of which one may be
/// open: in memory, the only one whose bytes can change. A block that is not in the map is zeros.
class FileNode {
 public:
  FileNode(std::shared_ptr<BuilderFiles> files, std::string name) : files_(std::move(files)), name_(std::move(name)) {}
  ~FileNode();

  /// A link.
  void set_target(std::string_view target);
  /// A file of a known size whose blocks come by put_block, each once.
  void expect_blocks(uint64_t size);
  void put_block(uint64_t index, std::span<const std::byte> data);
  /// As BlockSink's. False, with nothing done, where the image is of another store or the file is small.
  bool put_block(uint64_t index, std::span<std::byte> data, const RocksImage& base, std::span<const SamePages> same);

  void write(uint64_t offset, std::span<const std::byte> data);
  void read(uint64_t offset, std::span<std::byte> out);
  void truncate(uint64_t size);
  void visit(uint64_t offset, uint64_t length, const ImageSource::Visitor& v);
  /// Nobody writes for now: gives the open block's memory back. A failure shows in whatever comes next.
  void settle() noexcept;
  /// Takes over a whole block of a stored file, whose packs are pinned. `bytes` is its length; the file grows.
  void share_block(uint64_t index, const Block& block, size_t bytes);
  /// The block, for another file of this builder; nothing where it would have to be made first.
  std::optional<Block> shareable_block(uint64_t index);

  EntryType type() const { return type_; }
  uint64_t size() const { return size_; }
  std::string target() const;
  Digest digest();
  /// The finished row. Throws Error(EINVAL) where blocks are missing that put_block should have brought.
  FileRecord record();

  /// For messages; under the builder's lock.
  void rename(std::string name) { name_ = std::move(name); }

 private:
  void set_size(uint64_t size) {
    size_ = size;
    ++files_->changes;
  }
  void set_small(uint64_t size);
  void leave_small();
  void resize(uint64_t size);
  void check_block(uint64_t index, size_t bytes) const;
  void add_block(uint64_t index, Block block);
  void open_block(uint64_t index);
  void close_block();
  Digest block_digest(uint64_t index) const;
  void write_block(uint64_t index, size_t at, std::span<const std::byte> data);

  const std::shared_ptr<BuilderFiles> files_;
  std::string name_;
  mutable std::mutex mutex_;
  EntryType type_ = EntryType::file;
  std::atomic<uint64_t> size_ = 0;         // changed by set_size only
  bool small_ = true;
  bool expected_ = false;                  // blocks come by put_block
  std::string content_;                    // while small, and a link's target
  std::map<uint64_t, Block> blocks_;
  std::optional<uint64_t> open_;           // index of the open block
  bool dirty_ = false;                     // it is not in the map
  std::vector<std::byte> buffer_;          // its bytes, all of them
};

}  // namespace ckpt
