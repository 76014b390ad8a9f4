// Pages copied while the process is stopped.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "engine/memory/remote_memory.h"
#include "engine/image/maps.h"

namespace ckpt {

/// Filled by one thread during the stop, then only read, by any.
class StopCopies {
 public:
  /// Takes and touches memory beforehand: a page fault costs more than copying a page.
  void reserve(uint64_t bytes) { memory_.assign(bytes, std::byte{0}); }
  /// Bytes for which there is room without a page fault.
  uint64_t room() const { return memory_.size() - used_; }

  void copy(const RemoteMemory& memory, Range run);

  /// Runs that begin within a mapping, ascending.
  std::vector<Range> within(const Vma& vma) const;
  /// The copied bytes from an address on to the end of their run; empty where it was not copied. `next` is the begin of
  /// the first run beyond.
  std::span<const std::byte> at(uint64_t address, uint64_t& next) const;

 private:
  std::span<std::byte> room_for(uint64_t bytes);

  std::vector<std::byte> memory_;
  uint64_t used_ = 0;
  std::vector<std::vector<std::byte>> more_;
  std::map<uint64_t, std::span<std::byte>> runs_;
};

}  // namespace ckpt
