#include "engine/memory/page_scan.h"

#include <fcntl.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <array>

#include "engine/base/error.h"
#include "engine/memory/kernel_abi.h"

namespace ckpt {

PageScanner::PageScanner(pid_t pid) : pid_(pid) {
  pagemap_ = open_at(AT_FDCWD, fmt::format("/proc/{}/pagemap", pid), O_RDONLY);
}

bool PageScanner::kernel_can_scan() {
  static const bool can = [] {
    const UniqueFd self(::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
    abi::PmScanArg arg;   // an empty walk
    arg.start = arg.end = 0;
    arg.return_mask = abi::kPageIsPresent;
    arg.category_mask = abi::kPageIsPresent;
    return self && ::ioctl(self.get(), abi::kPagemapScan, &arg) == 0;
  }();
  return can;
}

std::vector<Range> PageScanner::touched(const Vma& vma) const {
  // Device memory has no pages of its own ("io": VM_IO, "pf": VM_PFNMAP), and reading it may disturb the device.
  if (vma.shared || vma.special() || vma.has_flag("io") || vma.has_flag("pf")) return {};
  const uint64_t max_gap = vma.anonymous() ? kMergeGapPages * kPageSize : 0;
  std::vector<Range> out;
  uint64_t last_marker_end = 0;
  for (const Run& run : runs({vma.start, vma.end})) {
    if (run.marker) {
      last_marker_end = run.range.end;
      continue;
    }
    const bool joins = !out.empty() && run.range.start - out.back().end <= max_gap &&
                       last_marker_end <= out.back().end;
    if (joins) {
      out.back().end = run.range.end;
    } else {
      out.push_back(run.range);
    }
  }
  return out;
}

std::vector<Range> PageScanner::content(Range part) const {
  std::vector<Range> out;
  for (const Run& run : runs(part)) {
    if (run.marker) continue;
    if (!out.empty() && out.back().end == run.range.start) {
      out.back().end = run.range.end;
    } else {
      out.push_back(run.range);
    }
  }
  return out;
}

std::vector<Range> PageScanner::guards(Range part) const {
  std::vector<Range> out;
  if (kernel_can_scan() && scan_guards(part, out)) return out;
  out.clear();
  each_entry(part, [&](uint64_t address, uint64_t entry) {
    // Linux 6.13 and 6.14 have no bit for it: a marker that is not one of write-protection.
    const bool marker = (entry & (abi::kPmSwap | abi::kPmPresent | abi::kPmUffdWp)) == abi::kPmSwap &&
                        (entry & abi::kPmSwapTypeMask) == abi::kPmSwapTypeMarker;
    if (!marker && (entry & abi::kPmGuard) == 0) return;
    if (!out.empty() && out.back().end == address) {
      out.back().end += kPageSize;
    } else {
      out.push_back({address, address + kPageSize});
    }
  });
  return out;
}

/// False where the kernel does not know guard regions as a category (before Linux 6.16).
bool PageScanner::scan_guards(Range part, std::vector<Range>& out) const {
  std::array<abi::PageRegion, 64> regions;
  abi::PmScanArg arg;
  arg.end = part.end;
  arg.vec = reinterpret_cast<uint64_t>(regions.data());
  arg.vec_len = regions.size();
  arg.category_mask = arg.return_mask = abi::kPageIsGuard;
  for (uint64_t at = part.start; at < part.end; at = arg.walk_end) {
    arg.start = at;
    const int count = ::ioctl(pagemap_.get(), abi::kPagemapScan, &arg);
    if (count < 0) return false;
    for (const abi::PageRegion& region : std::span(regions.data(), static_cast<size_t>(count))) {
      if (!out.empty() && out.back().end == region.start) {
        out.back().end = region.end;
      } else {
        out.push_back({region.start, region.end});
      }
    }
    if (arg.walk_end <= at) return false;
  }
  return true;
}

std::vector<PageScanner::Run> PageScanner::runs(Range part) const {
  std::vector<Run> out;
  if (!kernel_can_scan() || !scan_runs(part, out)) pagemap_runs(part, out);
  return out;
}

bool PageScanner::scan_runs(Range part, std::vector<Run>& out) const {
  std::array<abi::PageRegion, 512> regions;
  abi::PmScanArg arg;
  arg.end = part.end;
  arg.vec = reinterpret_cast<uint64_t>(regions.data());
  arg.vec_len = regions.size();
  // (PRESENT or SWAPPED) and not FILE and not the zero page.
  arg.category_anyof_mask = abi::kPageIsPresent | abi::kPageIsSwapped;
  arg.category_inverted = arg.category_mask = abi::kPageIsFile | abi::kPageIsPfnZero;
  arg.return_mask = abi::kPageIsPresent | abi::kPageIsSwapped;
  for (uint64_t at = part.start; at < part.end; at = arg.walk_end) {
    arg.start = at;
    const int count = ::ioctl(pagemap_.get(), abi::kPagemapScan, &arg);
    if (count < 0) {
      if (errno == EINTR) {
        arg.walk_end = at;
        continue;
      }
      if (errno == ENOTTY || errno == EINVAL) return false;
      fail_errno("{}: PAGEMAP_SCAN of {}", pid_, range_name(part));
    }
    for (const abi::PageRegion& region : std::span(regions.data(), static_cast<size_t>(count))) {
      const Range range{region.start, region.end};
      if (region.categories & abi::kPageIsPresent) {
        out.push_back({range, false});
      } else {
        sort_out_markers(range, out);
      }
    }
    if (arg.walk_end <= at) fail(EIO, "{}: PAGEMAP_SCAN of {} does not advance", pid_, range_name(part));
  }
  return true;
}

bool PageScanner::has_huge_page(Range part) const {
  abi::PageRegion region;
  abi::PmScanArg arg;
  arg.start = part.start;
  arg.end = part.end;
  arg.vec = reinterpret_cast<uint64_t>(&region);
  arg.vec_len = 1;
  arg.max_pages = 1;
  arg.category_mask = arg.return_mask = abi::kPageIsHuge;
  return ::ioctl(pagemap_.get(), abi::kPagemapScan, &arg) > 0;
}

void PageScanner::sort_out_markers(Range swapped, std::vector<Run>& out) const {
  each_entry(swapped, [&](uint64_t address, uint64_t entry) {
    const bool marker = (entry & abi::kPmGuard) != 0 ||
                        ((entry & (abi::kPmSwap | abi::kPmPresent)) == abi::kPmSwap &&
                         (entry & abi::kPmSwapTypeMask) == abi::kPmSwapTypeMarker);
    if (!out.empty() && out.back().range.end == address && out.back().marker == marker) {
      out.back().range.end += kPageSize;
    } else {
      out.push_back({{address, address + kPageSize}, marker});
    }
  });
}

void PageScanner::pagemap_runs(Range part, std::vector<Run>& out) const {
  each_entry(part, [&](uint64_t address, uint64_t entry) {
    if (!(entry & (abi::kPmPresent | abi::kPmSwap)) || (entry & abi::kPmFile)) return;
    const bool marker = !(entry & abi::kPmPresent) && (entry & abi::kPmSwapTypeMask) == abi::kPmSwapTypeMarker;
    if (!out.empty() && out.back().range.end == address && out.back().marker == marker) {
      out.back().range.end += kPageSize;
    } else {
      out.push_back({{address, address + kPageSize}, marker});
    }
  });
}

void PageScanner::each_entry(Range part, const std::function<void(uint64_t, uint64_t)>& visit) const {
  std::array<uint64_t, 8192> entries;
  for (uint64_t at = part.start; at < part.end;) {
    const size_t want = std::min<uint64_t>(entries.size(), (part.end - at) / kPageSize) * sizeof(uint64_t);
    const auto offset = static_cast<off_t>(at / kPageSize * sizeof(uint64_t));
    const ssize_t got = ::pread(pagemap_.get(), entries.data(), want, offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail_errno("/proc/{}/pagemap: read", pid_);
    if (got < static_cast<ssize_t>(sizeof(uint64_t))) fail(ESRCH, "{}: the process has ended", pid_);
    for (size_t i = 0; i < static_cast<size_t>(got) / sizeof(uint64_t); i++, at += kPageSize) visit(at, entries[i]);
  }
}

std::vector<Range> close_gaps(const std::vector<Range>& runs, uint64_t max_gap) {
  std::vector<Range> out;
  for (const Range& run : runs) {
    if (!out.empty() && run.start - out.back().end <= max_gap) {
      out.back().end = run.end;
    } else {
      out.push_back(run);
    }
  }
  return out;
}

}  // namespace ckpt
