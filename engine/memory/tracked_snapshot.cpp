// The snapshot of a process whose writes are followed (tracking.h): in the stop, the pages that were written since the last
// image are protected anew and copied, so that nothing is left to be read after it, and no thread of the process ever waits.
#include <sys/uio.h>

#include <algorithm>
#include <cstring>

#include "engine/base/error.h"
#include "engine/base/parallel.h"
#include "engine/memory/snapshot.h"
#include "engine/memory/tracking.h"

namespace ckpt {
namespace {

/// Held in memory. A process that has written more is read in full.
constexpr uint64_t kMostBytes = 96 << 20;
/// Beyond so many written runs of a slice one call that protects is cheaper for all of it.
constexpr size_t kManyRuns = 64;
/// The least part of a mapping that one thread walks, and the most parts of one: some reserve terabytes.
constexpr uint64_t kSlice = 64 << 20;
constexpr uint64_t kMostSlices = 64;
/// Below these a second thread costs more than it brings.
constexpr uint64_t kManyBytesToWalk = 256 << 20;
constexpr uint64_t kManyBytesToCopy = 4 << 20;
/// Room for what is written until the stop.
constexpr uint64_t kStopRoom = 2 << 20;
/// Copied at a time by one thread; runs of one call.
constexpr uint64_t kPortion = 1 << 20;
constexpr size_t kRunsOfACall = 256;

class TrackedSnapshot : public Snapshot {
 public:
  explicit TrackedSnapshot(MemoryTracking& tracking) : tracking_(tracking) { tracking.look_anew(); }

  const char* name() const override { return "tracked"; }
  pid_t pid() const override { return tracking_.pid(); }
  void arm(const std::vector<Vma>& vmas) override;
  void fix(const std::vector<Vma>& vmas, Remote& leader) override;
  std::vector<Range> touched(const Vma& vma) override;
  void read(Range range, std::span<std::byte> out) override;
  const ImageSource* base() const override { return tracking_.base().image(); }
  std::vector<SamePages> unchanged(Range range) const override;
  void release() noexcept override {}

 private:
  /// A run of the instant: in the last image, or copied to `at` in copies_.
  struct Part {
    Range range;
    bool same;
    uint64_t at = 0;
  };
  struct Slice {
    Range range;
    bool followed;
    std::vector<MemoryTracking::Run> runs;
  };

  template <typename F>
  void or_lost(F&& work);
  [[noreturn]] void too_much();
  void make_room(uint64_t bytes);
  std::vector<Slice> slices_of(const std::vector<Vma>& vmas);
  void fix_followed(const Slice& slice);
  void fix_protected(Range range);
  void to_be_copied(Range run);
  void copy_all();
  void copy(std::span<const Part*> parts);
  std::vector<Part>::const_iterator first_part(uint64_t address) const;

  MemoryTracking& tracking_;
  std::vector<Part> parts_;   // ascending
  uint64_t copied_ = 0;       // bytes
  std::unique_ptr<std::byte[]> copies_;
  uint64_t room_ = 0;         // of copies_, in bytes
};

/// Errors of the strategy mean another one.
template <typename F>
void TrackedSnapshot::or_lost(F&& work) {
  try {
    work();
  } catch (const SnapshotLost&) {
    throw;
  } catch (const Error& error) {
    tracking_.end();
    throw SnapshotLost(EAGAIN, error.sentence());
  }
}

void TrackedSnapshot::too_much() {
  tracking_.give_up();
  throw SnapshotLost(EAGAIN, fmt::format("{}: too much was written since the last image", pid()));
}

// Touched beforehand: a page fault costs more than copying a page.
void TrackedSnapshot::make_room(uint64_t bytes) {
  if (bytes > kMostBytes + kStopRoom) too_much();
  if (bytes <= room_) return;
  copies_.reset(new std::byte[bytes]);
  room_ = bytes;
  for (uint64_t at = 0; at < bytes; at += kPageSize) copies_[at] = std::byte{0};
}

void TrackedSnapshot::arm(const std::vector<Vma>& vmas) {
  or_lost([&] {
    if (vmas.size() > MemoryTracking::kMostMappings) too_much();
    uint64_t bytes = 0;
    for (const Vma& vma : vmas) {
      const Range mapping{vma.start, vma.end};
      if (vma.shared || vma.special()) continue;
      const bool followable = MemoryTracking::followable(vma);
      if (followable && !tracking_.registered(mapping)) tracking_.adopt(mapping);
      for (const MemoryTracking::Run& run : tracking_.content(mapping)) {
        if (run.written || !followable) bytes += run.range.size();
      }
    }
    make_room(std::max(bytes, tracking_.changed().bytes()) + kStopRoom);
  });
}

/// Of all private memory. What was mapped since arm() is adopted, and is memory that was written.
std::vector<TrackedSnapshot::Slice> TrackedSnapshot::slices_of(const std::vector<Vma>& vmas) {
  std::vector<Slice> slices;
  for (const Vma& vma : vmas) {
    const Range mapping{vma.start, vma.end};
    if (vma.shared || vma.special()) continue;
    if (!MemoryTracking::followable(vma) || !tracking_.is_followed(mapping)) {
      slices.push_back({mapping, false, {}});
      continue;
    }
    const uint64_t step = std::max(kSlice, mapping.size() / kMostSlices / kPageSize * kPageSize);
    for (uint64_t at = mapping.start; at < mapping.end; at += step) {
      slices.push_back({{at, std::min(at + step, mapping.end)}, true, {}});
    }
  }
  return slices;
}

void TrackedSnapshot::to_be_copied(Range run) {
  if (run.start >= run.end) return;
  parts_.push_back({run, false, copied_});
  copied_ += run.size();
}

/// Pages that were protected before, and have content: it is that of the last image, where they are in it and not known to
/// have changed.
void TrackedSnapshot::fix_protected(Range range) {
  uint64_t at = range.start;
  for (const SamePages& known : tracking_.base().within(range)) {
    const Range in_image{range.start + known.at, range.start + known.at + known.bytes};
    to_be_copied({at, in_image.start});
    at = in_image.start;
    for (const Range& changed : tracking_.changed().within(in_image)) {
      if (at < changed.start) parts_.push_back({{at, changed.start}, true});
      to_be_copied(changed);
      at = changed.end;
    }
    if (at < in_image.end) parts_.push_back({{at, in_image.end}, true});
    at = in_image.end;
  }
  to_be_copied({at, range.end});
}

void TrackedSnapshot::fix_followed(const Slice& slice) {
  const auto written = static_cast<size_t>(std::ranges::count_if(slice.runs, &MemoryTracking::Run::written));
  // For the next image. What is swapped out is read, and so present, and read once more next time.
  if (written > kManyRuns) tracking_.protect_written(slice.range);
  for (const MemoryTracking::Run& run : slice.runs) {
    if (!run.written) {
      fix_protected(run.range);
      continue;
    }
    if (written <= kManyRuns) tracking_.protect_written(run.range);
    tracking_.changed().add(run.range);
    to_be_copied(run.range);
  }
}

void TrackedSnapshot::fix(const std::vector<Vma>& vmas, Remote&) {
  or_lost([&] {
    if (vmas.size() > MemoryTracking::kMostMappings) too_much();
    std::vector<Slice> slices = slices_of(vmas);
    uint64_t bytes = 0;
    for (const Slice& slice : slices) bytes += slice.range.size();
    // Walking the page tables is most of what is to be done: all CPUs, the process stands still.
    for_each_index(slices.size(), bytes >= kManyBytesToWalk ? 0 : SIZE_MAX, [&](size_t i) {
      slices[i].runs = tracking_.content(slices[i].range);
    });
    for (const Slice& slice : slices) {
      if (slice.followed) {
        fix_followed(slice);
      } else {
        for (const MemoryTracking::Run& run : slice.runs) to_be_copied(run.range);
      }
    }
    copy_all();
  });
}

void TrackedSnapshot::copy_all() {
  make_room(copied_);
  std::vector<std::vector<const Part*>> portions;
  uint64_t bytes = 0;
  for (const Part& part : parts_) {
    if (part.same) continue;
    if (portions.empty() || bytes >= kPortion || portions.back().size() == kRunsOfACall) {
      portions.emplace_back();
      bytes = 0;
    }
    portions.back().push_back(&part);
    bytes += part.range.size();
  }
  for_each_index(portions.size(), copied_ >= kManyBytesToCopy ? 0 : SIZE_MAX, [&](size_t i) { copy(portions[i]); });
}

/// Runs whose copies lie one behind the other.
void TrackedSnapshot::copy(std::span<const Part*> parts) {
  std::byte* const to = copies_.get() + parts.front()->at;
  uint64_t bytes = 0;
  std::vector<iovec> from;
  for (const Part* part : parts) {
    from.push_back({reinterpret_cast<void*>(part->range.start), part->range.size()});
    bytes += part->range.size();
  }
  const iovec local{to, bytes};
  if (::process_vm_readv(pid(), &local, 1, from.data(), from.size(), 0) == static_cast<ssize_t>(bytes)) return;
  // Not readable for the process itself, for one (PROT_NONE).
  for (const Part* part : parts) tracking_.memory().read(part->range.start, {copies_.get() + part->at, part->range.size()});
}

std::vector<TrackedSnapshot::Part>::const_iterator TrackedSnapshot::first_part(uint64_t address) const {
  return std::ranges::upper_bound(parts_, address, {}, [](const Part& p) { return p.range.end; });
}

std::vector<Range> TrackedSnapshot::touched(const Vma& vma) {
  std::vector<Range> runs;
  for (auto it = first_part(vma.start); it != parts_.end() && it->range.start < vma.end; ++it) {
    runs.push_back(it->range);
  }
  return close_gaps(runs, vma.anonymous() ? kMergeGapPages * kPageSize : 0);
}

void TrackedSnapshot::read(Range range, std::span<std::byte> out) {
  uint64_t zeros_from = range.start;
  const auto zero_until = [&](uint64_t end) {
    if (end > zeros_from) std::memset(out.data() + (zeros_from - range.start), 0, end - zeros_from);
  };
  for (auto it = first_part(range.start); it != parts_.end() && it->range.start < range.end; ++it) {
    const Range part{std::max(it->range.start, range.start), std::min(it->range.end, range.end)};
    zero_until(part.start);
    zeros_from = part.end;
    if (it->same) continue;
    std::memcpy(out.data() + (part.start - range.start), copies_.get() + it->at + (part.start - it->range.start), part.size());
  }
  zero_until(range.end);
}

std::vector<SamePages> TrackedSnapshot::unchanged(Range range) const {
  std::vector<SamePages> out;
  for (auto it = first_part(range.start); it != parts_.end() && it->range.start < range.end; ++it) {
    if (!it->same) continue;
    const Range part{std::max(it->range.start, range.start), std::min(it->range.end, range.end)};
    for (SamePages pages : tracking_.base().within(part)) {
      pages.at += part.start - range.start;
      out.push_back(pages);
    }
  }
  return out;
}

}  // namespace

std::unique_ptr<Snapshot> make_tracked_snapshot(MemoryTracking& tracking) {
  return std::make_unique<TrackedSnapshot>(tracking);
}

}  // namespace ckpt
