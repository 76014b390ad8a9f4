#include "ckptfs/image_uses.h"

#include <algorithm>

#include "engine/base/error.h"

namespace ckpt {

ImageUses::Use& ImageUses::touched(uint64_t image_id, const std::string& image) {
  const auto now = Clock::now();
  if (uses_.size() >= prune_at_) {
    std::erase_if(uses_, [&](const auto& entry) { return !entry.second.recent(now); });
    prune_at_ = std::max<size_t>(64, 2 * uses_.size());
  }
  Use& use = uses_[image_id];
  if (use.claimed) fail(ENOENT, "{}: is being deleted, because its series has newer ones", image);
  use.last = now;
  return use;
}

void ImageUses::touch(uint64_t image_id, const std::string& image) {
  const std::lock_guard lock(mutex_);
  touched(image_id, image);
}

ImageUses::Lease ImageUses::hold(uint64_t image_id, const std::string& image) {
  {
    const std::lock_guard lock(mutex_);
    ++touched(image_id, image).holders;
  }
  // Without the lock: where there is no memory for it, the lease ends at once.
  return {this, [this, image_id](const void*) {
            const std::lock_guard relock(mutex_);
            Use& use = uses_[image_id];
            --use.holders;
            use.last = Clock::now();
          }};
}

bool ImageUses::used(uint64_t image_id) const {
  const auto found = uses_.find(image_id);
  return found != uses_.end() && found->second.recent(Clock::now());
}

bool ImageUses::in_use(uint64_t image_id) {
  const std::lock_guard lock(mutex_);
  return used(image_id);
}

ImageUses::Claim ImageUses::claim(uint64_t image_id) {
  const std::lock_guard lock(mutex_);
  if (used(image_id)) return {};
  Use& use = uses_[image_id];
  use.claimed = true;
  use.last = Clock::now();
  return {*this, image_id};
}

void ImageUses::release(uint64_t image_id) {
  const std::lock_guard lock(mutex_);
  uses_.erase(image_id);
}

}  // namespace ckpt
