// What the strategies have in common that copy an address space copy-on-write, as fork(2) does.
#pragma once

#include "engine/memory/page_scan.h"
#include "engine/memory/remote_memory.h"
#include "engine/memory/snapshot.h"
#include "engine/memory/stop_copies.h"

namespace ckpt {

class CowSnapshot : public Snapshot {
 public:
  explicit CowSnapshot(pid_t pid) : pid_(pid), memory_(pid), scanner_(pid) {}

  pid_t pid() const final { return pid_; }
  void fix(const std::vector<Vma>& vmas, Remote& leader) final;
  /// Where no copy could be made (limits, memory) the process is read while it is stopped.
  bool needs_stop() const final { return !copied_; }
  std::vector<Range> touched(const Vma& vma) final;
  void read(Range range, std::span<std::byte> out) final;

 protected:
  /// While the process is stopped. False where none can be had; throws Error where the process is at fault.
  virtual bool make_copy(Remote& leader) = 0;
  /// As touched() and read(), of the copy.
  virtual std::vector<Range> touched_in_copy(const Vma& vma) = 0;
  virtual void read_copy(Range range, std::span<std::byte> out) = 0;

  const pid_t pid_;

 private:
  /// What a copy does not have: MADV_DONTFORK, MADV_WIPEONFORK; and private huge pages, which the kernel takes away
  /// from the child when the parent writes and the pool is empty (mm/hugetlb.c).
  static bool inherited(const Vma& vma) {
    return !vma.has_flag("dc") && !vma.has_flag("wf") && !vma.has_flag("ht");
  }

  RemoteMemory memory_;
  PageScanner scanner_;
  StopCopies copies_;
  bool copied_ = false;
};

}  // namespace ckpt
