// Which pages of a mapping hold content of their own: PAGEMAP_SCAN (Linux 6.7), or reading /proc/PID/pagemap.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "engine/base/fd.h"
#include "engine/image/maps.h"

namespace ckpt {

/// Gaps of at most this many untouched pages inside private anonymous memory become part of a run: a page of zeros
/// costs nothing in the store, a file more does.
inline constexpr uint64_t kMergeGapPages = 16;

/// Reads the page tables of one process. Thread-safe.
class PageScanner {
 public:
  /// Throws Error(ESRCH, EACCES).
  explicit PageScanner(pid_t pid);

  /// The runs of pages that must be saved for `vma`:
  ///   private anonymous    present or swapped, the zero page excepted; small gaps closed
  ///   private file         pages that were copied on write
  ///   shared, [vdso], ...  none (objects are captured by descriptor, capture_shared_mappings)
  std::vector<Range> touched(const Vma& vma) const;

  /// The same for a part of a private mapping, every run exact, no gap closed. Pages that hold nothing but a marker
  /// (write-protection of an absent page, a guard region) are no content.
  std::vector<Range> content(Range part) const;

  /// The guard regions (MADV_GUARD_INSTALL, Linux 6.13) of any mapping, ascending.
  std::vector<Range> guards(Range part) const;

  /// True where a page of `part` is part of a huge page that is mapped as one. False without PAGEMAP_SCAN.
  bool has_huge_page(Range part) const;

  /// True where the kernel has PAGEMAP_SCAN.
  static bool kernel_can_scan();

 private:
  struct Run {
    Range range;
    bool marker = false;   ///< no content, but not to be read across either
  };
  std::vector<Run> runs(Range part) const;
  bool scan_runs(Range part, std::vector<Run>& out) const;
  void pagemap_runs(Range part, std::vector<Run>& out) const;
  /// Splits a run of swap entries into content and markers.
  void sort_out_markers(Range swapped, std::vector<Run>& out) const;
  bool scan_guards(Range part, std::vector<Range>& out) const;
  void each_entry(Range part, const std::function<void(uint64_t address, uint64_t entry)>& visit) const;

  pid_t pid_;
  UniqueFd pagemap_;
};

/// Closes gaps of at most `max_gap` bytes between ascending runs.
std::vector<Range> close_gaps(const std::vector<Range>& runs, uint64_t max_gap);

}  // namespace ckpt
