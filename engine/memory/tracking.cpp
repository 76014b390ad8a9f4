#include "engine/memory/tracking.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "engine/base/error.h"
#include "engine/memory/kernel_abi.h"
#include "engine/process/proc_status.h"

namespace ckpt {
namespace {

constexpr uint64_t kFeatures =
    UFFD_FEATURE_PAGEFAULT_FLAG_WP | abi::kUffdFeatureWpUnpopulated | abi::kUffdFeatureWpAsync;
/// Walks of the page tables hold mmap_lock: in slices of this size nobody notices.
constexpr uint64_t kSlice = 64 << 20;
/// But of a mapping that reserves terabytes not more than these.
constexpr uint64_t kMostSlices = 1024;
/// Compared at a time.
constexpr uint64_t kChunk = 1 << 20;
/// Checkpoints that are read in full after the process has written too much several times.
constexpr unsigned kLongestPause = 31;
/// Beyond this much that has changed already, following the rest is not worth it.
constexpr uint64_t kTooMuch = 256 << 20;

template <typename F>
void in_slices(Range range, F&& work) {
  const uint64_t step = std::max(kSlice, range.size() / kMostSlices / kPageSize * kPageSize);
  for (uint64_t at = range.start; at < range.end; at += step) work(Range{at, std::min(at + step, range.end)});
}

void check_cancel(const CancelFlag* cancel) {
  if (cancel != nullptr && cancel->load()) fail(EINTR, "the checkpoint was cancelled");
}

/// Walks `arg` and gives every region with its categories; 0 or the errno.
template <typename F>
int scan(int pagemap, abi::PmScanArg arg, F&& visit) {
  std::array<abi::PageRegion, 512> regions;
  arg.vec = reinterpret_cast<uint64_t>(regions.data());
  arg.vec_len = regions.size();
  while (arg.start < arg.end) {
    const int count = ::ioctl(pagemap, abi::kPagemapScan, &arg);
    if (count < 0) return errno;
    for (const abi::PageRegion& region : std::span(regions.data(), static_cast<size_t>(count))) {
      visit(Range{region.start, region.end}, region.categories);
    }
    if (arg.walk_end <= arg.start) return EIO;
    arg.start = arg.walk_end;
  }
  return 0;
}

}  // namespace

MemoryTracking::MemoryTracking(pid_t pid, uint64_t large_bytes) : pid_(pid), large_bytes_(large_bytes) {
  pid_fd_.reset(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!pid_fd_) fail_errno("{}: pidfd_open", pid);
  look_anew();
}

void MemoryTracking::look_anew() {
  memory_.emplace(pid_);
  scanner_.emplace(pid_);
  pagemap_ = open_at(AT_FDCWD, fmt::format("/proc/{}/pagemap", pid_), O_RDONLY);
}

bool MemoryTracking::kernel_can() {
  return (userfaultfd_features() & kFeatures) == kFeatures && PageScanner::kernel_can_scan();
}

bool MemoryTracking::process_ended() const {
  pollfd fd = {pid_fd_.get(), POLLIN, 0};
  return ::poll(&fd, 1, 0) > 0;
}

void MemoryTracking::attach(Remote& leader) {
  if (attached()) return;
  if (paused_for_ > 0) {
    --paused_for_;
    return;
  }
  // One under seccomp may not be able to close a userfaultfd that our death leaves in it.
  const std::string status = read_file(fmt::format("/proc/{}/status", pid()));
  if (status_field(status, "Seccomp") != "0") return;
  // Nothing is ever delivered, so no right to handle the kernel's faults is needed.
  if (UniqueFd uffd = fetch_userfaultfd(leader, kUffdUserModeOnly, kFeatures)) protector_.emplace(std::move(uffd));
  look_anew();
}

bool MemoryTracking::followable(const Vma& vma) {
  return vma.anonymous() && !vma.special() && !vma.has_flag("io") && !vma.has_flag("pf");
}

bool MemoryTracking::registered(Range mapping) const {
  abi::PmScanArg arg;
  arg.start = mapping.start;
  arg.end = mapping.start + kPageSize;   // a mapping is registered as a whole
  arg.flags = abi::kPmScanCheckWpAsync;
  arg.category_mask = arg.return_mask = abi::kPageIsPresent;
  return scan(pagemap_.get(), arg, [](Range, uint64_t) {}) == 0;
}

int MemoryTracking::add(Range mapping) const {
  const int err = protector_->add(mapping);
  // mmget_not_zero() in fs/userfaultfd.c
  if (err == ENOMEM || err == ESRCH) fail(ESRCH, "{}: another program is executed", pid());
  return err;
}

bool MemoryTracking::adopt(Range mapping) {
  changed_.add(mapping);
  if (add(mapping) != 0) return false;
  adopted_.add(mapping);
  // Before Linux 6.13 memory that was moved keeps protections of which nobody knows any more, and which no fault takes away.
  in_slices(mapping, [this](Range slice) { protector_->unprotect(slice); });
  return true;
}

bool MemoryTracking::is_followed(Range mapping) {
  if (!registered(mapping)) adopt(mapping);
  const int err = add(mapping);
  if (err == EBUSY) fail(EBUSY, "{}: mapping {} is watched by a userfaultfd", pid(), range_name(mapping));
  return err == 0;
}

std::vector<Range> MemoryTracking::protect_written(Range range) const {
  abi::PmScanArg arg;
  arg.start = range.start;
  arg.end = range.end;
  arg.flags = abi::kPmScanWpMatching;
  arg.category_inverted = abi::kPageIsPfnZero;
  arg.category_mask = abi::kPageIsWritten | abi::kPageIsPresent | abi::kPageIsPfnZero;
  arg.return_mask = abi::kPageIsWritten;
  std::vector<Range> out;
  const int err = scan(pagemap_.get(), arg, [&out](Range run, uint64_t) { out.push_back(run); });
  // Nobody knows what was protected before the failure.
  if (err != 0) fail(err, "{}: PAGEMAP_SCAN of {}: {}", pid(), range_name(range), errno_text(err));
  return out;
}

std::vector<MemoryTracking::Run> MemoryTracking::content(Range range, bool anonymous) const {
  abi::PmScanArg arg;
  arg.start = range.start;
  arg.end = range.end;
  arg.category_anyof_mask = abi::kPageIsPresent | abi::kPageIsSwapped;
  // To tell whether a page is of a file the kernel looks at its struct page: three times as slow.
  arg.category_inverted = arg.category_mask = abi::kPageIsPfnZero | (anonymous ? 0 : abi::kPageIsFile);
  arg.return_mask = abi::kPageIsPresent | abi::kPageIsWritten;
  std::vector<Run> out;
  const int err = scan(pagemap_.get(), arg, [&](Range run, uint64_t categories) {
    const bool written = (categories & abi::kPageIsWritten) != 0;
    if ((categories & abi::kPageIsPresent) != 0) return out.push_back({run, written});
    // Swapped out, or a marker and no content.
    for (const Range& swapped : scanner_->content(run)) out.push_back({swapped, written});
  });
  if (err != 0) fail(err, "{}: PAGEMAP_SCAN of {}: {}", pid(), range_name(range), errno_text(err));
  return out;
}

void MemoryTracking::protect_all(const std::vector<Vma>& vmas, const CancelFlag* cancel) {
  for (const Vma& vma : vmas) {
    if (!followable(vma) || !adopt({vma.start, vma.end})) continue;
    in_slices({vma.start, vma.end}, [&](Range slice) {
      check_cancel(cancel);
      (void)protect_written(slice);   // begin() compares them all
    });
  }
}

/// Adds to changed() what is not as in the image.
void MemoryTracking::compare(Range run, std::vector<std::byte>& ours, const CancelFlag* cancel) {
  for (uint64_t at = run.start; at < run.end; at += kChunk) {
    check_cancel(cancel);
    const Range chunk{at, std::min(at + kChunk, run.end)};
    const std::span<std::byte> now(ours.data(), chunk.size());
    const std::vector<SamePages> known = base_.within(chunk);
    if (known.empty() || memory_->try_read(chunk.start, now) != 0) {
      changed_.add(chunk);
      continue;
    }
    uint64_t done = chunk.start;
    for (const SamePages& pages : known) {
      changed_.add({done, chunk.start + pages.at});
      base_.image()->visit(pages.path, pages.offset, pages.bytes, [&](uint64_t offset, std::span<const std::byte> piece) {
        for (size_t i = 0; i < piece.size(); i += kPageSize) {
          const size_t page = pages.at + (offset - pages.offset) + i;
          if (std::memcmp(now.data() + page, piece.data() + i, kPageSize) == 0) continue;
          changed_.add({chunk.start + page, chunk.start + page + kPageSize});
        }
      });
      done = chunk.start + pages.at + pages.bytes;
    }
    changed_.add({done, chunk.end});
  }
}

void MemoryTracking::begin(std::shared_ptr<const ImageSource> image, const std::string& prefix, uint64_t least_bytes,
                           const std::function<void()>& stop_once, const CancelFlag* cancel) {
  try {
    base_ = ImageSegments(std::move(image), prefix);
    if (base_.bytes() < least_bytes) return give_up();
    const auto where = fmt::format("/proc/{}/maps", pid());
    const std::vector<Vma> vmas = parse_live_maps(read_file(where, 1 << 30), where);
    if (vmas.size() > kMostMappings) return give_up();
    protect_all(vmas, cancel);
    stop_once();
    changed_.clear();
    std::vector<std::byte> buffer(kChunk);
    for (const Vma& vma : vmas) {
      if (!followable(vma)) continue;
      for (const Range& run : scanner_->content({vma.start, vma.end})) compare(run, buffer, cancel);
    }
    if (changed_.bytes() > kTooMuch) give_up();
  } catch (const Error& error) {
    end();
    if (error.err() == EINTR) throw;
  } catch (...) {
    end();
    throw;
  }
}

void MemoryTracking::advance(std::shared_ptr<const ImageSource> image, const std::string& prefix) {
  base_ = ImageSegments(std::move(image), prefix);
  changed_.clear();
  pause_ = 0;
}

void MemoryTracking::give_up() noexcept {
  end();
  pause_ = std::min(2 * pause_ + 1, kLongestPause);
  paused_for_ = pause_;
}

void MemoryTracking::end() noexcept {
  base_ = {};
  changed_.clear();
  if (!protector_) return;
  for (const Range& range : adopted_.all()) {
    in_slices(range, [this](Range slice) {
      // Before Linux 6.16 the kernel would take away another's registration as well (userfaultfd_unregister() in fs/userfaultfd.c).
      if (protector_->add(slice) == 0) protector_->remove(slice);
    });
  }
  adopted_.clear();
  protector_.reset();
}

}  // namespace ckpt
