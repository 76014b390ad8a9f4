#include "engine/store/builder.h"

#include <algorithm>

#include "engine/base/record.h"

namespace ckpt {

namespace {

class NodeSink : public BlockSink {
 public:
  explicit NodeSink(std::shared_ptr<FileNode> node) : node_(std::move(node)) {}
  void put_block(uint64_t index, std::span<const std::byte> data) override { node_->put_block(index, data); }
  void put_block(uint64_t index, std::span<std::byte> data, const ImageSource& base,
                 std::span<const SamePages> same) override {
    const auto* stored = dynamic_cast<const RocksImage*>(&base);
    if (stored == nullptr || !node_->put_block(index, data, *stored, same)) BlockSink::put_block(index, data, base, same);
  }

 private:
  std::shared_ptr<FileNode> node_;
};

}  // namespace

std::shared_ptr<StagedFile> make_staged_file(std::shared_ptr<BuilderFiles> files, std::shared_ptr<FileNode> node);

bool RocksBuilder::is_directory(std::string_view path) const {
  const std::string prefix = std::string(path) + '/';
  const auto it = tree_.lower_bound(prefix);
  return it != tree_.end() && it->first.starts_with(prefix);
}

// What would make a file's name a directory too, or the other way round.
void RocksBuilder::check_free(std::string_view path) const {
  if (!valid_image_path(path)) fail(EINVAL, "{}: \"{}\" is not a path that an image may have", describe_, escape(path));
  if (is_directory(path)) fail(EISDIR, "{}: {} is a directory", describe_, path);
  for (size_t slash = path.find('/'); slash != path.npos; slash = path.find('/', slash + 1)) {
    if (tree_.contains(path.substr(0, slash))) {
      fail(ENOTDIR, "{}: {} is not a directory", describe_, path.substr(0, slash));
    }
  }
}

std::shared_ptr<FileNode> RocksBuilder::add(std::string_view path) {
  check_free(path);
  if (tree_.contains(path)) fail(EEXIST, "{}: {} is there already", describe_, path);
  auto node = std::make_shared<FileNode>(files_, fmt::format("{}: {}", describe_, path));
  ++tree_changes_;
  tree_[std::string(path)] = {node, {std::string(path), EntryType::file, 0}};
  return node;
}

void RocksBuilder::put(std::string_view path, std::string_view content) {
  std::shared_ptr<FileNode> node;
  {
    const std::lock_guard lock(mutex_);
    node = add(path);
  }
  node->write(0, std::as_bytes(std::span(content)));
}

void RocksBuilder::put_link(std::string_view path, std::string_view target) {
  if (target.empty() || target.size() > 4095 || target.find('\0') != target.npos) {
    fail(EINVAL, "{}: {}: no symbolic link can have this target", describe_, path);
  }
  const std::lock_guard lock(mutex_);
  add(path)->set_target(target);
}

std::shared_ptr<BlockSink> RocksBuilder::create(std::string_view path, uint64_t size) {
  const std::lock_guard lock(mutex_);
  const std::shared_ptr<FileNode> node = add(path);
  node->expect_blocks(size);
  return std::make_shared<NodeSink>(node);
}

const std::vector<ImageEntry>& RocksBuilder::entries() const {
  const std::lock_guard lock(mutex_);
  const uint64_t now = tree_changes_ + files_->changes;
  if (now != listed_at_) {
    std::vector<ImageEntry>& list = lists_.emplace_front();
    for (const auto& [path, named] : tree_) list.push_back({path, named.node->type(), named.node->size()});
    listed_at_ = now;
    if (lists_.size() > 16) lists_.pop_back();
  }
  return lists_.front();
}

const ImageEntry* RocksBuilder::find(std::string_view path) const {
  const std::lock_guard lock(mutex_);
  const auto it = tree_.find(path);
  if (it == tree_.end()) return nullptr;
  it->second.entry.type = it->second.node->type();
  it->second.entry.size = it->second.node->size();
  return &it->second.entry;
}

std::shared_ptr<FileNode> RocksBuilder::node(std::string_view path) const {
  const std::lock_guard lock(mutex_);
  const auto it = tree_.find(path);
  if (it == tree_.end()) fail(ENOENT, "{}: no file {}", describe_, path);
  return it->second.node;
}

std::string RocksBuilder::read_link(std::string_view path) const {
  const std::shared_ptr<FileNode> n = node(path);
  if (n->type() != EntryType::symlink) fail(EINVAL, "{}: {} is not a symbolic link", describe_, path);
  return n->target();
}

void RocksBuilder::visit(std::string_view path, uint64_t offset, uint64_t length, const Visitor& v) const {
  const std::shared_ptr<FileNode> n = node(path);
  if (n->type() != EntryType::file) fail(EINVAL, "{}: {} is a symbolic link", describe_, path);
  n->visit(offset, length, v);
}

Digest RocksBuilder::digest(std::string_view path) const { return node(path)->digest(); }

std::shared_ptr<StagedFile> RocksBuilder::open(std::string_view path) {
  const std::lock_guard lock(mutex_);
  const auto it = tree_.find(path);
  if (it == tree_.end()) return make_staged_file(files_, add(path));
  if (it->second.node->type() != EntryType::file) fail(EINVAL, "{}: {} is a symbolic link", describe_, path);
  return make_staged_file(files_, it->second.node);
}

void RocksBuilder::remove(std::string_view path) {
  const std::lock_guard lock(mutex_);
  const auto it = tree_.find(path);
  if (it == tree_.end()) fail(ENOENT, "{}: no file {}", describe_, path);
  ++tree_changes_;
  tree_.erase(it);
}

void RocksBuilder::rename_one(Tree::iterator from, std::string_view to) {
  ++tree_changes_;
  Named named = std::move(from->second);
  tree_.erase(from);
  named.entry.path = to;
  named.node->rename(fmt::format("{}: {}", describe_, to));
  tree_.insert_or_assign(std::string(to), std::move(named));
}

void RocksBuilder::rename(std::string_view from, std::string_view to) {
  const std::lock_guard lock(mutex_);
  if (from == to) return;
  if (const auto it = tree_.find(from); it != tree_.end()) {
    check_free(to);
    return rename_one(it, to);
  }
  if (!is_directory(from)) fail(ENOENT, "{}: no file {}", describe_, from);
  const std::string old_prefix = std::string(from) + '/';
  const std::string new_prefix = std::string(to) + '/';
  if (new_prefix.starts_with(old_prefix)) fail(EINVAL, "{}: {} cannot be moved into itself", describe_, from);
  if (is_directory(to)) fail(ENOTEMPTY, "{}: {} is not empty", describe_, to);
  if (tree_.contains(to)) fail(ENOTDIR, "{}: {} is not a directory", describe_, to);
  std::vector<std::string> moved;
  for (auto it = tree_.lower_bound(old_prefix); it != tree_.end() && it->first.starts_with(old_prefix); ++it) {
    check_free(new_prefix + it->first.substr(old_prefix.size()));
    moved.push_back(it->first);
  }
  for (const std::string& path : moved) rename_one(tree_.find(path), new_prefix + path.substr(old_prefix.size()));
}

void RocksBuilder::write_manifest(const ManifestHeader& header) {
  Manifest manifest;
  manifest.header = header;
  const std::lock_guard lock(mutex_);
  for (const auto& [path, named] : tree_) {
    if (path == kManifestName) continue;
    manifest.files[path] = {named.node->type(), named.node->size(), named.node->digest()};
  }
  if (const auto old = tree_.find(kManifestName); old != tree_.end()) {
    ++tree_changes_;
    tree_.erase(old);
  }
  const std::string json = manifest.to_json();
  add(kManifestName)->write(0, std::as_bytes(std::span(json)));
}

}  // namespace ckpt
