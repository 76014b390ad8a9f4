#include "ckptfs/image_uses.h"

#include <algorithm>

#include "engine/base/error.h"

namespace ckpt {

ImageUses::Use& ImageUses::touched(uint64_t image_id) {
  const auto now = Clock::now();
  if (uses_.size() >= prune_at_) {
    std::erase_if(uses_, [&](const auto& entry) { return !entry.second.claimed && !entry.second.recent(now); });
    prune_at_ = std::max<size_t>(64, 2 * uses_.size());
  }
  Use& use = uses_[image_id];
  if (use.claimed) fail(ENOENT, "the image is being deleted");
  use.last = now;
  return use;
}

void ImageUses::touch(uint64_t image_id) {
  const std::lock_guard lock(mutex_);
  touched(image_id);
}

ImageUses::Lease ImageUses::hold(uint64_t image_id) {
  const std::lock_guard lock(mutex_);
  ++touched(image_id).holders;
  return {this, [this, image_id](const void*) {
            const std::lock_guard relock(mutex_);
            Use& use = uses_[image_id];
            --use.holders;
            use.last = Clock::now();
          }};
}

bool ImageUses::claim(uint64_t image_id) {
  const std::lock_guard lock(mutex_);
  const auto found = uses_.find(image_id);
  if (found != uses_.end() && found->second.recent(Clock::now())) return false;
  uses_[image_id].claimed = true;
  return true;
}

void ImageUses::release(uint64_t image_id) {
  const std::lock_guard lock(mutex_);
  uses_.erase(image_id);
}

}  // namespace ckpt
