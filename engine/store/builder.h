// An image under construction: its tree of files, and the commit.
#pragma once

#include <deque>

#include "engine/store/file_node.h"

namespace ckpt {

class RocksBuilder : public ImageBuilder {
 public:
  RocksBuilder(std::shared_ptr<StoreCore> core, std::string describe)
      : core_(core), files_(std::make_shared<BuilderFiles>(std::move(core))), describe_(std::move(describe)) {}

  // The sink.
  void put(std::string_view path, std::string_view content) override;
  void put_link(std::string_view path, std::string_view target) override;
  std::shared_ptr<BlockSink> create(std::string_view path, uint64_t size) override;

  // The source: files as they are now. What entries() and find() refer to stays while the builder is
  // left alone; it outlives a few changes by others.
  std::string describe() const override { return describe_; }
  const std::vector<ImageEntry>& entries() const override;
  const ImageEntry* find(std::string_view path) const override;
  std::string read_link(std::string_view path) const override;
  void visit(std::string_view path, uint64_t offset, uint64_t length, const Visitor& v) const override;
  Digest digest(std::string_view path) const override;

  std::shared_ptr<StagedFile> open(std::string_view path) override;
  void remove(std::string_view path) override;
  void rename(std::string_view from, std::string_view to) override;
  uint64_t new_bytes() const override { return files_->packs.new_pages() * kPageSize; }
  void write_manifest(const ManifestHeader& header) override;
  std::shared_ptr<const StoredImage> commit(const std::string& name) override;

  /// A file, for sharing its blocks. ENOENT names the image.
  std::shared_ptr<FileNode> node(std::string_view path) const;
  const std::shared_ptr<BuilderFiles>& files() const { return files_; }

 private:
  struct Named {
    std::shared_ptr<FileNode> node;
    ImageEntry entry;              // brought up to date whenever somebody asks
  };
  using Tree = std::map<std::string, Named, std::less<>>;

  void check_free(std::string_view path) const;
  bool is_directory(std::string_view path) const;
  std::shared_ptr<FileNode> add(std::string_view path);
  void rename_one(Tree::iterator from, std::string_view to);

  const std::shared_ptr<StoreCore> core_;
  const std::shared_ptr<BuilderFiles> files_;
  const std::string describe_;
  mutable std::mutex mutex_;
  mutable Tree tree_;
  uint64_t tree_changes_ = 0;
  // The newest list, and some older ones that somebody may still be walking through.
  mutable std::deque<std::vector<ImageEntry>> lists_;
  mutable uint64_t listed_at_ = UINT64_MAX;
};

}  // namespace ckpt
