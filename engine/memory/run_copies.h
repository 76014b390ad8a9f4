// Copies of scattered runs of a process's memory, one behind the other.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/image/maps.h"
#include "engine/memory/remote_memory.h"

namespace ckpt {

/// Filled by one thread, then read by any.
class RunCopies {
 public:
  explicit RunCopies(const RemoteMemory& memory) : memory_(memory) {}

  /// Takes and touches memory beforehand: a page fault costs more than copying a page. What is copied already stays.
  void reserve(uint64_t bytes);
  /// Bytes of all runs so far.
  uint64_t bytes() const { return bytes_; }

  /// Where the next copy_rest() will copy the run to.
  uint64_t add(Range run);
  /// Copies what was added since the last time, on two threads where that is much. Throws Error(ESRCH, EIO).
  void copy_rest();
  /// The same; false where something cannot be read: what was added is forgotten then.
  bool try_copy_rest() noexcept;

  const std::byte* data(uint64_t at) const { return memory_at_.get() + at; }

 private:
  void copy_runs(std::span<const Range> runs, uint64_t to);

  const RemoteMemory& memory_;
  std::unique_ptr<std::byte[]> memory_at_;
  uint64_t room_ = 0;
  uint64_t bytes_ = 0;
  uint64_t copied_ = 0;        // of them, those that are there
  std::vector<Range> rest_;
};

}  // namespace ckpt
