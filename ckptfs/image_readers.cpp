#include "ckptfs/image_readers.h"

#include "ckptfs/catalog.h"

namespace ckpt {

ImageReaders::Lease ImageReaders::series_runs() {
  {
    const std::lock_guard lock(mutex_);
    ++series_;
  }
  // Without the lock: where there is no memory for it, the lease ends at once.
  return {this, [this](const void*) {
            const std::lock_guard lock(mutex_);
            --series_;
          }};
}

void ImageReaders::drop_idle() {
  const auto old = Clock::now() - ImageUses::kPatience;
  std::erase_if(readers_, [&](const auto& entry) {
    return entry.second.last < old && !uses_.in_use(entry.second.tree->id());
  });
}

void ImageReaders::prune() {
  const std::lock_guard lock(mutex_);
  drop_idle();
}

bool ImageReaders::active() {
  const std::lock_guard lock(mutex_);
  if (series_ == 0) drop_idle();
  return series_ > 0 || !readers_.empty();
}

ImageReaders::Tree ImageReaders::look_up(const Request& request, const std::string& name, const Tree& newest) {
  const pid_t process = active() ? request.process() : 0;
  if (process == 0) return newest;
  const std::lock_guard lock(mutex_);
  drop_idle();
  Reader& reader = readers_[{process, name}];
  if (reader.opened.empty()) {
    reader.tree = newest;
    reader.last = Clock::now();
  }
  reader.newest = newest->id();
  return reader.tree;
}

bool ImageReaders::opened(const Request& request, const ImageTree& tree, uint32_t index) {
  const pid_t process = active() ? request.process() : 0;
  if (process == 0) return true;
  const std::lock_guard lock(mutex_);
  for (auto it = readers_.lower_bound({process, ""}); it != readers_.end() && it->first.first == process; ++it) {
    Reader& reader = it->second;
    if (reader.tree->id() != tree.id()) continue;
    if (!reader.opened.insert(index).second && reader.newest != tree.id()) {
      readers_.erase(it);
      return false;
    }
    reader.last = Clock::now();
  }
  return true;
}

void ImageReaders::forget(const std::string& name) {
  const std::lock_guard lock(mutex_);
  std::erase_if(readers_, [&](const auto& entry) { return entry.first.second == name; });
}

}  // namespace ckpt
