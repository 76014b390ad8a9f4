#include "ckptfs/staged_node.h"

#include <fcntl.h>

#include <algorithm>

namespace ckpt {

Work StagedNode::rename(const Request& request, const std::string& name, Node& new_parent,
                        const std::string& new_name) {
  auto* target = dynamic_cast<StagedNode*>(&new_parent);
  // To another image, or out of the drop box: mv copies, then.
  if (target == nullptr || target->image_ != image_) fail(EXDEV, "{}/{}: not within one image", image_->path(), name);
  return image_->rename(request, ino(), name, target->ino(), new_name);
}

StagedHandle::StagedHandle(std::shared_ptr<StagedImage> image, Ino ino, std::shared_ptr<StagedContent> content,
                           int flags)
    : image_(std::move(image)),
      ino_(ino),
      content_(std::move(content)),
      writer_((flags & O_ACCMODE) != O_RDONLY),
      append_((flags & O_APPEND) != 0) {}

uint64_t StagedHandle::size() const {
  const std::lock_guard lock(content_->mutex);
  return content_->file->size();
}

void StagedHandle::read(const Request&, uint64_t offset, size_t size, const Answer& answer) {
  image_->check_may_read();
  std::vector<std::byte> buffer;
  {
    const std::lock_guard lock(content_->mutex);
    const uint64_t end = content_->file->size();
    if (offset < end) buffer.resize(std::min<uint64_t>(size, end - offset));
    if (!buffer.empty()) content_->file->read(offset, buffer);
  }
  answer(buffer);
}

Work StagedHandle::write(const Request&, uint64_t offset, std::span<const std::byte> data) {
  const auto changing = image_->begin_change(*content_);
  uint64_t size = 0;
  {
    const std::lock_guard lock(content_->mutex);
    content_->file->write(append_ ? content_->file->size() : offset, data);
    size = content_->file->size();
  }
  changed_ = true;
  image_->content_changed(ino_, size);
  return {};
}

Work StagedHandle::flush(const Request& request) {
  if (!writer_ || !changed_.exchange(false)) return {};
  return image_->content_settled(request, ino_);
}

uint64_t StagedHandle::copy_from(const Request&, Handle& from, uint64_t from_offset, uint64_t offset,
                                 uint64_t length) {
  const auto changing = image_->begin_change(*content_);
  const std::optional<Source> source = from.source();
  if (!source) fail(EXDEV, "only a stored image shares its pages");
  const uint64_t end = from.size();
  if (from_offset >= end) return 0;
  uint64_t size = 0;
  uint64_t taken = 0;
  {
    const std::lock_guard lock(content_->mutex);
    taken = content_->file->copy_from(*source->image, source->path, from_offset, offset,
                                      std::min(length, end - from_offset));
    size = content_->file->size();
  }
  if (taken == 0) return 0;
  changed_ = true;
  image_->content_changed(ino_, size);
  return taken;
}

}  // namespace ckpt
