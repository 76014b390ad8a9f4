#include "engine/memory/snapshot.h"

namespace ckpt {

std::unique_ptr<Snapshot> choose_snapshot(const SnapshotTarget& target, const std::vector<Vma>&) {
  return make_copy_snapshot(target.pid);
}

}  // namespace ckpt
