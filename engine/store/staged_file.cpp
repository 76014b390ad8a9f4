// A file that is written in any order, and taking over blocks of other files.
#include <algorithm>

#include "engine/store/builder.h"

namespace ckpt {

namespace {

// A block that can change hands without its pages being read.
struct Shared {
  Block block;
  size_t bytes;
};

class NodeFile : public StagedFile {
 public:
  NodeFile(std::shared_ptr<BuilderFiles> files, std::shared_ptr<FileNode> node)
      : files_(std::move(files)), node_(std::move(node)) {}
  ~NodeFile() override { node_->settle(); }

  void write(uint64_t offset, std::span<const std::byte> data) override { node_->write(offset, data); }
  void read(uint64_t offset, std::span<std::byte> out) const override { node_->read(offset, out); }
  void truncate(uint64_t size) override { node_->truncate(size); }
  uint64_t size() const override { return node_->size(); }
  uint64_t copy_from(const ImageSource& source, std::string_view path, uint64_t source_offset, uint64_t offset,
                     uint64_t length) override;

 private:
  std::optional<Shared> shareable(const ImageSource& source, std::string_view path, uint64_t offset);
  void copy_bytes(const ImageSource& source, std::string_view path, uint64_t source_offset, uint64_t offset,
                  uint64_t length);

  std::shared_ptr<BuilderFiles> files_;
  std::shared_ptr<FileNode> node_;
};

// The block at `offset` of a file in this store, its packs pinned for this builder.
std::optional<Shared> NodeFile::shareable(const ImageSource& source, std::string_view path, uint64_t offset) {
  const uint64_t index = offset / kBlockSize;
  if (const auto* stored = dynamic_cast<const RocksImage*>(&source)) {
    if (stored->core().get() != &files_->packs.core()) return std::nullopt;
    const FileRecord& file = stored->file(path);
    if (file.inlined) return std::nullopt;
    files_->packs.pin(file.blocks[index].extents);
    return Shared{file.blocks[index], block_bytes(file.size, index)};
  }
  // Another builder's packs may never become durable; its own are its own.
  const auto* builder = dynamic_cast<const RocksBuilder*>(&source);
  if (builder == nullptr || builder->files() != files_) return std::nullopt;
  const std::shared_ptr<FileNode> node = builder->node(path);
  const uint64_t size = node->size();
  std::optional<Block> block = node->shareable_block(index);
  if (!block || offset >= size) return std::nullopt;
  return Shared{std::move(*block), block_bytes(size, index)};
}

void NodeFile::copy_bytes(const ImageSource& source, std::string_view path, uint64_t source_offset, uint64_t offset,
                          uint64_t length) {
  // Through a buffer, so that no lock of the source is held while the target is written: they may be one.
  std::vector<std::byte> buffer(length);
  source.read_at(path, source_offset, buffer);
  node_->write(offset, buffer);
}

uint64_t NodeFile::copy_from(const ImageSource& source, std::string_view path, uint64_t source_offset,
                             uint64_t offset, uint64_t length) {
  const ImageEntry* entry = source.find(path);
  if (entry == nullptr || entry->type != EntryType::file) fail(ENOENT, "{}: no file {}", source.describe(), path);
  const uint64_t source_size = entry->size;
  if (source_offset >= source_size) return 0;
  length = std::min(length, source_size - source_offset);
  if (offset > kMaxFileBytes || length > kMaxFileBytes - offset) {
    fail(EFBIG, "{}: a file of an image has at most {} bytes", path, kMaxFileBytes);
  }
  for (uint64_t done = 0; done < length;) {
    const uint64_t from = source_offset + done, to = offset + done;
    const uint64_t bytes = std::min(length - done, kBlockSize - to % kBlockSize);
    std::optional<Shared> shared;
    if (from % kBlockSize == 0 && to % kBlockSize == 0) shared = shareable(source, path, from);
    // A short last block fits only where the file ends with it too.
    const bool fits = shared && bytes == shared->bytes && (bytes == kBlockSize || to + bytes >= node_->size());
    if (fits) {
      node_->share_block(to / kBlockSize, shared->block, shared->bytes);
    } else {
      copy_bytes(source, path, from, to, bytes);
    }
    done += bytes;
  }
  return length;
}

}  // namespace

std::shared_ptr<StagedFile> make_staged_file(std::shared_ptr<BuilderFiles> files, std::shared_ptr<FileNode> node) {
  return std::make_shared<NodeFile>(std::move(files), std::move(node));
}

}  // namespace ckpt
