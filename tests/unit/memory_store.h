// A store in memory, for tests of the capture.
#pragma once

#include <functional>

#include "engine/store/store.h"
#include "tests/unit/memory_image.h"

namespace ckpt {

class MemoryStore : public Store {
 public:
  class Stored : public StoredImage {
   public:
    Stored(std::shared_ptr<MemoryImage> image, ImageInfo info) : image_(std::move(image)), info_(std::move(info)) {}
    std::string describe() const override { return info_.name; }
    const std::vector<ImageEntry>& entries() const override { return image_->entries(); }
    std::string read_link(std::string_view path) const override { return image_->read_link(path); }
    void visit(std::string_view path, uint64_t offset, uint64_t length, const Visitor& v) const override {
      image_->visit(path, offset, length, v);
    }
    Digest digest(std::string_view path) const override { return image_->digest(path); }
    const ImageInfo& info() const override { return info_; }

   private:
    std::shared_ptr<MemoryImage> image_;
    ImageInfo info_;
  };

  class Builder : public ImageBuilder {
   public:
    explicit Builder(MemoryStore& store) : store_(store) {}
    void put(std::string_view path, std::string_view content) override {
      image_->put(path, content);
      if (store_.after_put) store_.after_put(path);
    }
    void put_link(std::string_view path, std::string_view target) override { image_->put_link(path, target); }
    std::shared_ptr<BlockSink> create(std::string_view path, uint64_t size) override {
      return image_->create(path, size);
    }
    std::string describe() const override { return "image"; }
    const std::vector<ImageEntry>& entries() const override { return image_->entries(); }
    std::string read_link(std::string_view path) const override { return image_->read_link(path); }
    void visit(std::string_view path, uint64_t offset, uint64_t length, const Visitor& v) const override {
      image_->visit(path, offset, length, v);
    }
    Digest digest(std::string_view path) const override { return image_->digest(path); }
    std::shared_ptr<StagedFile> open(std::string_view) override { fail(ENOSYS, "not in memory"); }
    void remove(std::string_view path) override { image_->remove(path); }
    void rename(std::string_view, std::string_view) override { fail(ENOSYS, "not in memory"); }
    void write_manifest(const ManifestHeader& header) override {
      header_ = header;
      Manifest manifest;
      manifest.header = header;
      image_->put(kManifestName, manifest.to_json());
    }
    uint64_t new_bytes() const override { return 0; }
    std::shared_ptr<const StoredImage> commit(const std::string& name) override {
      if (store_.fail_commits) fail(ENOSPC, "the store is full");
      ImageInfo info;
      info.name = name;
      info.header = header_;
      for (const ImageEntry& entry : image_->entries()) info.logical_bytes += entry.size;
      auto image = std::make_shared<Stored>(image_, info);
      store_.stored[name] = image;
      return image;
    }

   private:
    MemoryStore& store_;
    std::shared_ptr<MemoryImage> image_ = std::make_shared<MemoryImage>();
    ManifestHeader header_;
  };

  std::vector<ImageInfo> images() const override { return {}; }
  std::shared_ptr<const StoredImage> open_image(std::string_view name) const override {
    const auto it = stored.find(std::string(name));
    if (it == stored.end()) fail(ENOENT, "{}: no such image", name);
    return it->second;
  }
  bool has_image(std::string_view name) const override { return stored.count(std::string(name)) != 0; }
  void rename_image(const std::string&, const std::string&, uint64_t) override {}
  void delete_image(const std::string& name, uint64_t) override { stored.erase(name); }
  std::unique_ptr<ImageBuilder> begin_image(std::string) override { return std::make_unique<Builder>(*this); }
  StoreStats stats() const override { return {}; }
  GcResult collect_garbage(bool, const Progress&) override { return {}; }
  CheckResult check(CheckLevel, const Progress&) override { return {}; }

  std::map<std::string, std::shared_ptr<Stored>> stored;
  bool fail_commits = false;
  /// Called after each file of a capture, in its thread.
  std::function<void(std::string_view path)> after_put;
};

}  // namespace ckpt
