// The inodes that the kernel knows, with the number of look-ups it holds on each.
#pragma once

#include <shared_mutex>
#include <unordered_map>

#include "ckptfs/node.h"

namespace ckpt {

/// Thread-safe.
class InodeTable {
 public:
  explicit InodeTable(NodePtr root);

  /// Error(ESTALE) for a number that the kernel should not know.
  NodePtr get(Ino ino) const;
  /// Counts one look-up of the node. Returns the node that stands for its number: an equal one may be there already.
  NodePtr remember(const NodePtr& node);
  /// Takes `count` look-ups back; the node goes with the last one.
  void forget(Ino ino, uint64_t count);
  size_t size() const;

 private:
  struct Slot {
    NodePtr node;
    uint64_t lookups = 0;
  };
  mutable std::shared_mutex mutex_;   ///< innermost: no other lock is taken under it
  std::unordered_map<Ino, Slot> slots_;
};

}  // namespace ckpt
