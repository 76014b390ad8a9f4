// The snapshot of a process whose writes are followed (tracking.h): in the stop, the pages that were written since the last
// image are protected anew and copied, so that nothing is left to be read after it, and no thread of the process ever waits.
// Of a large process most of it is done before: in a first stop they are protected, then copied while it runs. The copy of a
// page is that of the second stop, the instant, if the page is still protected by then.
#include <algorithm>
#include <cstring>

#include "engine/base/error.h"
#include "engine/base/parallel.h"
#include "engine/memory/run_copies.h"
#include "engine/memory/snapshot.h"
#include "engine/memory/tracking.h"

namespace ckpt {
namespace {

/// Held in memory. A process that has written more is read in full; some of it may be copied twice.
constexpr uint64_t kMostBytes = 96 << 20;
/// Beyond so many written runs of a slice one call that protects is cheaper for all of it.
constexpr size_t kManyRuns = 64;
/// The least part of a mapping that one thread walks, and the most parts of one: some reserve terabytes.
constexpr uint64_t kSlice = 64 << 20;
constexpr uint64_t kMostSlices = 64;
/// Below these a second thread costs more than it brings.
constexpr uint64_t kManyBytesToWalk = 256 << 20;
/// Room for what is written until the stop.
constexpr uint64_t kStopRoom = 2 << 20;

class TrackedSnapshot : public Snapshot {
 public:
  explicit TrackedSnapshot(MemoryTracking& tracking) : tracking_((tracking.look_anew(), tracking)), copies_(tracking.memory()) {}

  const char* name() const override { return "tracked"; }
  pid_t pid() const override { return tracking_.pid(); }
  bool wants_prepare_stop() const override { return tracking_.is_large(); }
  void prepare(const std::vector<Vma>& vmas, Remote& leader) override;
  void arm(const std::vector<Vma>& vmas) override;
  void fix(const std::vector<Vma>& vmas, Remote& leader) override;
  std::vector<Range> touched(const Vma& vma) override;
  void read(Range range, std::span<std::byte> out) override;
  const ImageSource* base() const override { return tracking_.base().image(); }
  std::vector<SamePages> unchanged(Range range) const override;
  void release() noexcept override {}

 private:
  /// A run of the instant: in the last image, or at `at` in copies_, where it is to be copied to unless it was before.
  struct Part {
    enum class From { image, early_copy, memory };
    Range range;
    From from;
    uint64_t at = 0;
  };
  struct Slice {
    Range range;
    bool followed;
    bool anonymous;
    std::vector<MemoryTracking::Run> runs;
  };

  template <typename F>
  void or_lost(F&& work);
  [[noreturn]] void too_much();
  void copy_early(const std::vector<Range>& runs);
  std::vector<Slice> slices_of(const std::vector<Vma>& vmas);
  template <typename F>
  static void for_each_slice(const std::vector<Slice>& slices, F&& work);
  void fix_followed(const Slice& slice);
  void fix_protected(Range range);
  void to_be_copied(Range run);
  void changed_but_protected(Range run);
  std::vector<Part>::const_iterator first_part(uint64_t address) const;

  MemoryTracking& tracking_;
  std::vector<Part> early_;   // ascending; copied before the stop
  std::vector<Part> parts_;   // ascending
  RunCopies copies_;
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
  } catch (...) {
    tracking_.end();   // what was protected may not have been written down
    throw;
  }
}

void TrackedSnapshot::too_much() {
  tracking_.give_up();
  throw SnapshotLost(EAGAIN, fmt::format("{}: too much was written since the last image", pid()));
}

template <typename F>
void TrackedSnapshot::for_each_slice(const std::vector<Slice>& slices, F&& work) {
  uint64_t bytes = 0;
  for (const Slice& slice : slices) bytes += slice.range.size();
  // Walking the page tables is most of what is to be done: all CPUs, the process stands still.
  for_each_index(slices.size(), bytes >= kManyBytesToWalk ? 0 : SIZE_MAX, work);
}

void TrackedSnapshot::prepare(const std::vector<Vma>& vmas, Remote&) {
  or_lost([&] {
    if (vmas.size() > MemoryTracking::kMostMappings) too_much();
    const std::vector<Slice> slices = slices_of(vmas);
    std::vector<std::vector<Range>> written(slices.size());
    for_each_slice(slices, [&](size_t i) {
      if (slices[i].followed) written[i] = tracking_.protect_written(slices[i].range);
    });
    for (const auto& runs : written) {
      for (const Range& run : runs) tracking_.changed().add(run);
    }
  });
}

void TrackedSnapshot::arm(const std::vector<Vma>& vmas) {
  or_lost([&] {
    if (vmas.size() > MemoryTracking::kMostMappings) too_much();
    std::vector<Range> protected_runs;   // that are not as in the image
    uint64_t bytes = 0;
    for (const Vma& vma : vmas) {
      const Range mapping{vma.start, vma.end};
      if (vma.shared || vma.special()) continue;
      const bool followable = MemoryTracking::followable(vma);
      if (followable && !tracking_.registered(mapping)) tracking_.adopt(mapping);
      for (const MemoryTracking::Run& run : tracking_.content(mapping, vma.anonymous())) {
        if (run.written || !followable) {
          bytes += run.range.size();
          continue;
        }
        for (const Range& changed : tracking_.changed().within(run.range)) {
          protected_runs.push_back(changed);
          bytes += changed.size();
        }
      }
    }
    if (bytes > kMostBytes) too_much();
    copies_.reserve(bytes + bytes / 4 + kStopRoom);
    if (wants_prepare_stop()) copy_early(protected_runs);
  });
}

/// Where something has gone meanwhile, all are copied in the stop.
void TrackedSnapshot::copy_early(const std::vector<Range>& runs) {
  for (const Range& run : runs) early_.push_back({run, Part::From::early_copy, copies_.add(run)});
  if (!copies_.try_copy_rest()) early_.clear();
}

/// Of all private memory. What was mapped since arm() is adopted, and is memory that was written.
std::vector<TrackedSnapshot::Slice> TrackedSnapshot::slices_of(const std::vector<Vma>& vmas) {
  std::vector<Slice> slices;
  for (const Vma& vma : vmas) {
    const Range mapping{vma.start, vma.end};
    if (vma.shared || vma.special()) continue;
    if (!MemoryTracking::followable(vma) || !tracking_.is_followed(mapping)) {
      slices.push_back({mapping, false, vma.anonymous(), {}});
      continue;
    }
    const uint64_t step = std::max(kSlice, mapping.size() / kMostSlices / kPageSize * kPageSize);
    for (uint64_t at = mapping.start; at < mapping.end; at += step) {
      slices.push_back({{at, std::min(at + step, mapping.end)}, true, true, {}});
    }
  }
  return slices;
}

void TrackedSnapshot::to_be_copied(Range run) {
  if (run.start >= run.end) return;
  parts_.push_back({run, Part::From::memory, copies_.add(run)});
}

void TrackedSnapshot::changed_but_protected(Range run) {
  auto early = std::ranges::upper_bound(early_, run.start, {}, [](const Part& p) { return p.range.end; });
  uint64_t at = run.start;
  for (; early != early_.end() && early->range.start < run.end; ++early) {
    const Range part{std::max(early->range.start, at), std::min(early->range.end, run.end)};
    to_be_copied({at, part.start});
    parts_.push_back({part, Part::From::early_copy, early->at + (part.start - early->range.start)});
    at = part.end;
  }
  to_be_copied({at, run.end});
}

/// Pages that were protected before, and have content: it is that of the last image, where they are in it and not known to
/// have changed.
void TrackedSnapshot::fix_protected(Range range) {
  uint64_t at = range.start;
  for (const SamePages& known : tracking_.base().within(range)) {
    const Range in_image{range.start + known.at, range.start + known.at + known.bytes};
    changed_but_protected({at, in_image.start});
    at = in_image.start;
    for (const Range& changed : tracking_.changed().within(in_image)) {
      if (at < changed.start) parts_.push_back({{at, changed.start}, Part::From::image});
      changed_but_protected(changed);
      at = changed.end;
    }
    if (at < in_image.end) parts_.push_back({{at, in_image.end}, Part::From::image});
    at = in_image.end;
  }
  changed_but_protected({at, range.end});
}

void TrackedSnapshot::fix_followed(const Slice& slice) {
  const auto written = static_cast<size_t>(std::ranges::count_if(slice.runs, &MemoryTracking::Run::written));
  // For the next image. What is swapped out is read, and so present, and read once more next time.
  if (written > kManyRuns) (void)tracking_.protect_written(slice.range);
  for (const MemoryTracking::Run& run : slice.runs) {
    if (!run.written) {
      fix_protected(run.range);
      continue;
    }
    if (written <= kManyRuns) (void)tracking_.protect_written(run.range);
    tracking_.changed().add(run.range);
    to_be_copied(run.range);
  }
}

void TrackedSnapshot::fix(const std::vector<Vma>& vmas, Remote&) {
  or_lost([&] {
    if (vmas.size() > MemoryTracking::kMostMappings) too_much();
    std::vector<Slice> slices = slices_of(vmas);
    for_each_slice(slices, [&](size_t i) { slices[i].runs = tracking_.content(slices[i].range, slices[i].anonymous); });
    for (const Slice& slice : slices) {
      if (slice.followed) {
        fix_followed(slice);
      } else {
        for (const MemoryTracking::Run& run : slice.runs) to_be_copied(run.range);
      }
    }
    if (copies_.bytes() > 2 * kMostBytes) too_much();
    copies_.copy_rest();
  });
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
    if (it->from == Part::From::image) continue;
    std::memcpy(out.data() + (part.start - range.start), copies_.data(it->at) + (part.start - it->range.start), part.size());
  }
  zero_until(range.end);
}

std::vector<SamePages> TrackedSnapshot::unchanged(Range range) const {
  std::vector<SamePages> out;
  for (auto it = first_part(range.start); it != parts_.end() && it->range.start < range.end; ++it) {
    if (it->from != Part::From::image) continue;
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
