// An image in memory, both sides at once: what a test captures into and restores from.
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "engine/base/error.h"
#include "engine/image/image.h"

namespace ckpt {

class MemoryImage : public ImageSink, public ImageSource {
 public:
  // ImageSink
  void put(std::string_view path, std::string_view content) override {
    add(path, EntryType::file, std::string(content));
  }
  void put_link(std::string_view path, std::string_view target) override {
    add(path, EntryType::symlink, std::string(target));
  }
  std::shared_ptr<BlockSink> create(std::string_view path, uint64_t size) override {
    return std::make_shared<Blocks>(add(path, EntryType::file, std::string(size, '\0')));
  }

  // ImageSource
  std::string describe() const override { return "image"; }
  const std::vector<ImageEntry>& entries() const override {
    // Made anew only after a change, so that pointers into it stay good as long as nobody edits the image.
    std::vector<ImageEntry> now;
    for (const auto& [path, node] : nodes_) now.push_back({path, node->type, node->content.size()});
    const auto same = [](const ImageEntry& a, const ImageEntry& b) {
      return a.path == b.path && a.type == b.type && a.size == b.size;
    };
    if (!std::ranges::equal(now, entries_, same)) entries_ = std::move(now);
    return entries_;
  }
  std::string read_link(std::string_view path) const override { return node(path).content; }
  void visit(std::string_view path, uint64_t offset, uint64_t length, const Visitor& v) const override {
    const std::string& content = node(path).content;
    if (offset > content.size() || length > content.size() - offset) fail(EINVAL, "{}: read beyond the end", path);
    // In odd pieces, so that nobody relies on blocks.
    for (uint64_t done = 0; done < length;) {
      const uint64_t n = std::min<uint64_t>(length - done, 100'000);
      v(offset + done, std::as_bytes(std::span(content.data() + offset + done, n)));
      done += n;
    }
  }
  Digest digest(std::string_view path) const override {
    return digest_file(std::as_bytes(std::span(node(path).content)));
  }

  /// For tests that edit or forge an image.
  std::string& content(std::string_view path) { return const_cast<Node&>(node(path)).content; }
  void replace(std::string_view path, std::string_view from, std::string_view to) {
    std::string& text = content(path);
    const size_t at = text.find(from);
    if (at == text.npos) fail(ENOENT, "{}: has no '{}'", path, from);
    text.replace(at, from.size(), to);
  }
  void remove(std::string_view path) { nodes_.erase(std::string(path)); }

 private:
  struct Node {
    EntryType type;
    std::string content;
  };
  class Blocks : public BlockSink {
   public:
    explicit Blocks(std::shared_ptr<Node> n) : node_(std::move(n)) {}
    using BlockSink::put_block;
    void put_block(uint64_t index, std::span<const std::byte> data) override {
      const uint64_t size = node_->content.size(), at = index * kBlockSize;
      if (at >= size || data.size() != std::min<uint64_t>(kBlockSize, size - at)) {
        fail(EINVAL, "block {} has {} bytes", index, data.size());
      }
      std::memcpy(node_->content.data() + at, data.data(), data.size());
    }

   private:
    std::shared_ptr<Node> node_;
  };

  std::shared_ptr<Node> add(std::string_view path, EntryType type, std::string content) {
    const std::lock_guard lock(mutex_);
    if (!valid_image_path(path)) fail(EINVAL, "'{}' is not a valid path", path);
    auto node = std::make_shared<Node>(Node{type, std::move(content)});
    if (!nodes_.emplace(path, node).second) fail(EEXIST, "{}: is there already", path);
    return node;
  }
  const Node& node(std::string_view path) const {
    const auto it = nodes_.find(std::string(path));
    if (it == nodes_.end()) fail(ENOENT, "{}: no such file", path);
    return *it->second;
  }

  std::mutex mutex_;
  std::map<std::string, std::shared_ptr<Node>> nodes_;
  mutable std::vector<ImageEntry> entries_;
};

}  // namespace ckpt
