#include "engine/memory/stop_copies.h"

namespace ckpt {

void StopCopies::copy(const RemoteMemory& memory, Range run) {
  const std::span<std::byte> to = room_for(run.size());
  memory.read(run.start, to);
  runs_.emplace(run.start, to);
}

std::vector<Range> StopCopies::within(const Vma& vma) const {
  std::vector<Range> out;
  for (auto it = runs_.lower_bound(vma.start); it != runs_.end() && it->first < vma.end; ++it) {
    out.push_back({it->first, it->first + it->second.size()});
  }
  return out;
}

std::span<const std::byte> StopCopies::at(uint64_t address, uint64_t& next) const {
  auto it = runs_.upper_bound(address);
  next = it == runs_.end() ? UINT64_MAX : it->first;
  if (it == runs_.begin()) return {};
  --it;
  const uint64_t offset = address - it->first;
  if (offset >= it->second.size()) return {};
  return std::span<const std::byte>(it->second).subspan(offset);
}

std::span<std::byte> StopCopies::room_for(uint64_t bytes) {
  if (bytes > room()) return more_.emplace_back(bytes);
  used_ += bytes;
  return std::span(memory_).subspan(used_ - bytes, bytes);
}

}  // namespace ckpt
