// The nodes and open files of a staged image: thin, everything is decided in StagedImage.
#pragma once

#include <atomic>

#include "ckptfs/staged_image.h"

namespace ckpt {

class StagedNode : public Node {
 public:
  StagedNode(std::shared_ptr<StagedImage> image, Ino ino) : Node(ino), image_(std::move(image)) {}

  StagedImage& image() const { return *image_; }

  struct stat stat() const override { return image_->stat(ino()); }
  double attribute_timeout() const override { return 1; }
  /// The kernel makes every change itself, but for the end of the image, of which it is told (StagingArea::over).
  double entry_timeout() const override { return image_->state() == StagedImage::State::over ? 0 : 1; }
  void set_attributes(const Request& r, const struct stat& values, const AttributeChanges& changes) override {
    image_->set_attributes(r, ino(), values, changes);
  }
  std::string read_link() const override { return image_->read_link(ino()); }
  HandlePtr open(const Request& r, int flags) override { return image_->open(r, ino(), flags); }
  NodePtr lookup(const Request& r, const std::string& name) override { return image_->lookup(r, ino(), name); }
  std::vector<DirEntry> list(const Request&) override { return image_->list(ino()); }
  std::pair<NodePtr, HandlePtr> create(const Request& r, const std::string& name, mode_t mode, int flags) override {
    return image_->create(r, ino(), name, mode, flags);
  }
  NodePtr make_directory(const Request& r, const std::string& name, mode_t mode) override {
    return image_->make_directory(r, ino(), name, mode);
  }
  std::pair<NodePtr, Work> make_link(const Request& r, const std::string& name, const std::string& target) override {
    return image_->make_link(r, ino(), name, target);
  }
  void remove_file(const Request&, const std::string& name) override { image_->remove(ino(), name, false); }
  void remove_directory(const Request&, const std::string& name) override { image_->remove(ino(), name, true); }
  Work rename(const Request& r, const std::string& name, Node& new_parent, const std::string& new_name) override;

 private:
  const std::shared_ptr<StagedImage> image_;
};

/// Direct I/O: twice as fast for the writer, and nothing is cached that another handle changes.
class StagedHandle : public Handle {
 public:
  StagedHandle(std::shared_ptr<StagedImage> image, Ino ino, std::shared_ptr<StagedContent> content, int flags);

  bool direct_io() const override { return true; }
  uint64_t size() const override;
  void read(const Request&, uint64_t offset, size_t size, const Answer& answer) override;
  Work write(const Request&, uint64_t offset, std::span<const std::byte> data) override;
  Work flush(const Request&) override;
  uint64_t copy_from(const Request&, Handle& from, uint64_t from_offset, uint64_t offset,
                     uint64_t length) override;

  /// The file is to be settled at the next flush, even if nothing is written: it was made or cut by the open.
  void mark_changed() { changed_ = true; }

 private:
  const std::shared_ptr<StagedImage> image_;
  const Ino ino_;
  const std::shared_ptr<StagedContent> content_;
  const bool writer_;
  const bool append_;
  std::atomic<bool> changed_ = false;
};

}  // namespace ckpt
