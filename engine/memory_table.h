// The mappings of a process as of the stop, with the flags that only the slow smaps tells.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "engine/image/maps.h"

namespace ckpt {

/// smaps walks the page tables (milliseconds a GiB), maps does not. So the VmFlags are read while the process
/// runs and given to the mappings that maps shows in the stop; what has come in between gets its flags when
/// the process runs again. Not thread-safe.
class MemoryTable {
 public:
  MemoryTable(pid_t pid, int proc_dir) : pid_(pid), proc_dir_(proc_dir) {}

  /// Before the stop. `followed`: a registration with a userfaultfd is ours (memory/tracking.h).
  void read(bool followed = false);
  /// In the stop, with /proc/PID/maps as of then.
  void fix(std::string maps);
  /// After the stop, before smaps(): flags of mappings that were not there before it. False where they cannot be had any
  /// more, since the process has ended.
  bool complete();

  const std::vector<Vma>& vmas() const { return vmas_; }
  const std::string& maps() const { return maps_; }
  /// As smaps, but of each mapping only its line of maps, its ProtectionKey and its VmFlags.
  std::string smaps() const;

 private:
  std::vector<Vma> read_smaps() const;
  void take_flags(const std::vector<Vma>& from);

  pid_t pid_;
  int proc_dir_;
  std::string maps_;
  std::vector<Vma> vmas_;
  std::vector<bool> known_;  // whether the flags of vmas_[i] are
};

}  // namespace ckpt
