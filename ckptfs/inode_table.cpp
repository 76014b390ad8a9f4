#include "ckptfs/inode_table.h"

#include <algorithm>
#include <mutex>

namespace ckpt {

InodeTable::InodeTable(NodePtr root) { slots_.emplace(root->ino(), Slot{root, 1}); }

NodePtr InodeTable::get(Ino ino) const {
  const std::shared_lock lock(mutex_);
  const auto found = slots_.find(ino);
  if (found == slots_.end()) fail(ESTALE, "inode {} is not known", ino);
  return found->second.node;
}

NodePtr InodeTable::remember(const NodePtr& node) {
  const std::unique_lock lock(mutex_);
  Slot& slot = slots_[node->ino()];
  if (!slot.node) slot.node = node;
  ++slot.lookups;
  return slot.node;
}

void InodeTable::forget(Ino ino, uint64_t count) {
  NodePtr last;  // destroyed after the lock is gone: a node's end may be long (a staged image)
  const std::unique_lock lock(mutex_);
  const auto found = slots_.find(ino);
  if (found == slots_.end() || ino == kRootIno) return;
  Slot& slot = found->second;
  slot.lookups -= std::min(slot.lookups, count);
  if (slot.lookups > 0) return;
  last = std::move(slot.node);
  slots_.erase(found);
}

size_t InodeTable::size() const {
  const std::shared_lock lock(mutex_);
  return slots_.size();
}

}  // namespace ckpt
