#include "engine/memory/cow_snapshot.h"

#include <cstring>

namespace ckpt {

void CowSnapshot::fix(const std::vector<Vma>& vmas, Remote& leader) {
  copied_ = make_copy(leader);
  if (!copied_) return;
  for (const Vma& vma : vmas) {
    if (inherited(vma)) continue;
    for (const Range& run : scanner_.touched(vma)) copies_.copy(memory_, run);
  }
}

std::vector<Range> CowSnapshot::touched(const Vma& vma) {
  if (!copied_) return scanner_.touched(vma);
  return inherited(vma) ? touched_in_copy(vma) : copies_.within(vma);
}

void CowSnapshot::read(Range range, std::span<std::byte> out) {
  if (!copied_) return memory_.read(range.start, out.first(range.size()));
  uint64_t next = 0;
  const std::span<const std::byte> copied = copies_.at(range.start, next);
  if (copied.empty()) return read_copy(range, out.first(range.size()));
  if (copied.size() < range.size()) fail(EINVAL, "memory {} is not in the snapshot", range_name(range));
  std::memcpy(out.data(), copied.data(), range.size());
}

}  // namespace ckpt
