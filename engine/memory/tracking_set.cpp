#include "engine/memory/tracking_set.h"

#include <algorithm>

namespace ckpt {

void TrackingSet::forget_ended() {
  std::erase_if(processes_, [](const auto& entry) { return entry.second.tracking->process_ended(); });
}

std::shared_ptr<MemoryTracking> TrackingSet::find(pid_t pid, pid_t root, bool make) {
  if (!MemoryTracking::kernel_can()) return nullptr;
  const std::lock_guard lock(mutex_);
  forget_ended();
  const auto it = processes_.find(pid);
  if (it != processes_.end()) return it->second.tracking;
  if (!make) return nullptr;
  return processes_.emplace(pid, Followed{std::make_shared<MemoryTracking>(pid, large_bytes_), root}).first->second.tracking;
}

bool TrackingSet::follows_for(pid_t root) {
  const std::lock_guard lock(mutex_);
  forget_ended();
  return std::ranges::any_of(processes_, [root](const auto& entry) { return entry.second.root == root; });
}

void TrackingSet::forget_process(pid_t pid) noexcept {
  std::map<pid_t, Followed>::node_type gone;   // let go without the lock
  const std::lock_guard lock(mutex_);
  gone = processes_.extract(pid);
}

void TrackingSet::forget(pid_t root) noexcept {
  std::map<pid_t, Followed> gone;   // let go without the lock
  const std::lock_guard lock(mutex_);
  for (auto it = processes_.begin(); it != processes_.end();) {
    auto next = std::next(it);
    if (it->second.root == root) gone.insert(processes_.extract(it));
    it = next;
  }
}

size_t TrackingSet::size() {
  const std::lock_guard lock(mutex_);
  forget_ended();
  return processes_.size();
}

}  // namespace ckpt
