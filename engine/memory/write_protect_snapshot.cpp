// Two-phase write-protection. Phase one, while the process runs: protect everything in pieces, and again what was
// written meanwhile, until little is left. Phase two, during the stop: protect the rest. From then on nothing can be
// written before it was copied, by the copier in its order or by the fault handler when the process is faster.
//
// What userfaultfd cannot protect (copied pages of file mappings, memory that the process has registered with a
// userfaultfd of its own) is copied during the stop.
#include <algorithm>
#include <thread>

#include "engine/base/parallel.h"
#include "engine/memory/fault_handler.h"
#include "engine/memory/kernel_abi.h"
#include "engine/memory/snapshot.h"
#include "engine/memory/stop_copies.h"

namespace ckpt {
namespace {

constexpr uint64_t kFeatures = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_EVENT_REMAP |
                               UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP |
                               abi::kUffdFeatureWpUnpopulated;
constexpr size_t kSidePages = (96 << 20) / kPageSize;
/// Pages that the copier takes under one lock: a fault on the same piece waits this long, some 150 us.
constexpr size_t kFetchPages = 256;
/// Pieces below which a second thread costs more than it brings.
constexpr size_t kManyPieces = 8;
/// Un-registering walks the page tables with mmap_lock held for writing; in slices of this size nobody notices.
constexpr uint64_t kReleaseSlice = 16 << 20;
/// Where a mapping would take more slices than this, terabytes mostly of holes, they are larger.
constexpr uint64_t kMaxSlices = 4096;
/// Windows that may be left for the stop, about 2 us each.
constexpr size_t kFewWindows = 64;
constexpr int kMaxRounds = 10;
/// Beyond this many dirty runs one call for the piece is cheaper.
constexpr int kManyRuns = 12;

class WriteProtectSnapshot : public Snapshot {
 public:
  WriteProtectSnapshot(pid_t pid, const CpuWatch* cpus, ScratchFile scratch)
      : shared_(pid, kSidePages, std::move(scratch)), cpus_(cpus) {}
  ~WriteProtectSnapshot() override { release(); }

  const char* name() const override { return "write-protect"; }
  pid_t pid() const override { return shared_.pid; }
  bool wants_prepare_stop() const override { return true; }
  void prepare(const std::vector<Vma>& vmas, Remote& leader) override;
  void arm(const std::vector<Vma>& vmas) override;
  void spare(std::vector<uint64_t> addresses) override { spared_ = std::move(addresses); }
  void fix(const std::vector<Vma>& vmas, Remote& leader) override;
  std::vector<Range> touched(const Vma& vma) override;
  void read(Range range, std::span<std::byte> out) override;
  void release() noexcept override;

 private:
  static bool protectable(const Vma& vma) { return vma.anonymous() && !vma.special(); }
  bool register_mapping(Range mapping);
  size_t protect_all();
  size_t protect_dirty(Piece& piece);
  void protect_now(Range range);
  void take_spared();
  void drop_pieces_beyond(const std::vector<Vma>& vmas);
  std::vector<Range> gaps(const std::vector<Vma>& vmas);
  void fix_gap(const std::vector<Vma>& vmas, Range gap);
  void fix_new_runs(const Vma& vma, Range gap, const std::vector<Range>& runs);
  void with_piece(Piece& piece, const std::function<Outcome(const PieceKeeper&)>& attempt);
  void check_lost() const;

  /// Of how many pieces on a second thread is worth its while.
  size_t worth() const { return cpus_ == nullptr || cpus_->a_cpu_is_free() ? kManyPieces : SIZE_MAX; }

  ProtectedMemory shared_;
  const CpuWatch* const cpus_;
  StopCopies copies_;
  std::vector<Range> registered_;
  std::vector<uint64_t> spared_;
  std::unique_ptr<FaultHandler> handler_;
};

void WriteProtectSnapshot::prepare(const std::vector<Vma>&, Remote& leader) {
  UniqueFd uffd = fetch_userfaultfd(leader, 0, kFeatures);
  if (!uffd) {
    throw SnapshotLost(EAGAIN, fmt::format("{}: userfaultfd in the process: {}", shared_.pid, errno_text(errno)));
  }
  shared_.protector.emplace(std::move(uffd));
  handler_ = std::make_unique<FaultHandler>(shared_);
}

bool WriteProtectSnapshot::register_mapping(Range mapping) {
  // EBUSY: the process has a userfaultfd of its own there. EINVAL: no memory that can be protected.
  if (shared_.protector->add(mapping) != 0) return false;
  registered_.push_back(mapping);
  return true;
}

void WriteProtectSnapshot::arm(const std::vector<Vma>& vmas) {
  uint64_t to_copy = 0;
  std::vector<std::unique_ptr<Piece>> pieces;
  for (const Vma& vma : vmas) {
    if (vma.shared || vma.special()) continue;
    const std::vector<Range> runs = shared_.scanner.content({vma.start, vma.end});
    if (!runs.empty() && protectable(vma) && register_mapping({vma.start, vma.end})) {
      for (auto& piece : cut_pieces({vma.start, vma.end}, runs)) pieces.push_back(std::move(piece));
    } else {
      for (const Range& run : runs) to_copy += run.size();
    }
  }
  copies_.reserve(to_copy + to_copy / 4 + (256 << 10));
  for_each_index(pieces.size(), worth(), [&](size_t i) {
    pieces[i]->huge = shared_.scanner.has_huge_page(pieces[i]->range);
    pieces[i]->dirty.set();
  });
  {
    const std::lock_guard lock(shared_.table_mutex);
    shared_.table.insert(std::move(pieces));
  }
  size_t before = SIZE_MAX;
  for (int round = 0; round < kMaxRounds; round++) {
    const size_t windows = protect_all();
    // Enough, or the process writes as fast as we protect.
    if (windows <= kFewWindows || windows > before / 4 * 3) break;
    before = windows;
  }
}

/// Protects what is dirty; returns the number of windows.
size_t WriteProtectSnapshot::protect_all() {
  std::vector<Piece*> pieces;
  {
    const std::lock_guard lock(shared_.table_mutex);
    pieces = shared_.table.all();
  }
  std::atomic<size_t> windows = 0;
  for_each_index(pieces.size(), worth(), [&](size_t i) {
    const std::lock_guard lock(pieces[i]->mutex);
    windows += protect_dirty(*pieces[i]);
  });
  return windows;
}

size_t WriteProtectSnapshot::protect_dirty(Piece& piece) {
  const size_t count = piece.dirty.count();
  if (count == 0) return 0;
  const std::bitset<kWindows> starts = piece.dirty & ~(piece.dirty << 1);
  int err = 0;
  if (starts.count() > kManyRuns) {
    err = shared_.protector->protect(piece.range);
  } else {
    for (size_t i = 0; i < kWindows && err == 0; i++) {
      if (!starts[i]) continue;
      size_t end = i;
      while (end < kWindows && piece.dirty[end]) end++;
      const Range range{piece.address(i * kWindowPages), std::min(piece.address(end * kWindowPages), piece.range.end)};
      if (range.start < range.end) err = shared_.protector->protect(range);
    }
  }
  // EAGAIN, ENOENT: the mapping is changing. It stays dirty, and is looked at again during the stop.
  if (err == 0) piece.dirty.reset();
  return count;
}

void WriteProtectSnapshot::fix(const std::vector<Vma>& vmas, Remote&) {
  const std::lock_guard turn(shared_.turnstile);
  const std::unique_lock exclusive(shared_.changes);
  drop_pieces_beyond(vmas);
  std::vector<Piece*> pieces;
  {
    const std::lock_guard lock(shared_.table_mutex);
    pieces = shared_.table.all();
  }
  for (Piece* piece : pieces) {
    {
      const std::lock_guard lock(piece->mutex);
      protect_dirty(*piece);
      piece->fixed = piece->dirty.none();
      if (piece->fixed) continue;
    }
    // No longer registered; what is there now is found as a gap.
    const std::lock_guard lock(shared_.table_mutex);
    shared_.table.drop(piece);
  }
  for (const Range& gap : gaps(vmas)) fix_gap(vmas, gap);
  take_spared();
  shared_.fixed = true;
}

/// Copies the pages of spare() now and lets them be written to.
void WriteProtectSnapshot::take_spared() {
  for (uint64_t& address : spared_) address = address / kPageSize * kPageSize;
  std::sort(spared_.begin(), spared_.end());
  spared_.erase(std::unique(spared_.begin(), spared_.end()), spared_.end());
  const PieceKeeper keeper = shared_.keeper();
  for (const uint64_t address : spared_) {
    Piece* piece = shared_.find(address);
    if (!piece) continue;   // copied, or not protected
    const std::lock_guard lock(piece->mutex);
    if (keeper.save_early(*piece, piece->index(address)) != Outcome::done) {
      throw SnapshotLost(EAGAIN, fmt::format("{}: memory at {:#x} cannot be spared", shared_.pid, address));
    }
  }
}

/// Gives up pieces that are no longer wholly within one mapping that can be protected.
void WriteProtectSnapshot::drop_pieces_beyond(const std::vector<Vma>& vmas) {
  const std::lock_guard lock(shared_.table_mutex);
  size_t i = 0;
  for (Piece* piece : shared_.table.all()) {
    while (i < vmas.size() && vmas[i].end <= piece->range.start) i++;
    const bool inside = i < vmas.size() && protectable(vmas[i]) && vmas[i].start <= piece->range.start &&
                        piece->range.end <= vmas[i].end;
    if (!inside) shared_.table.drop(piece);
  }
}

/// The address ranges between pieces that private mappings lie in. One range spans many mappings: a walk of the page
/// tables costs less than a call for each.
std::vector<Range> WriteProtectSnapshot::gaps(const std::vector<Vma>& vmas) {
  const std::lock_guard lock(shared_.table_mutex);
  std::vector<Range> out;
  bool joins = false;   // nothing that must not be walked lies between the last range and here
  const auto add = [&](uint64_t start, uint64_t end) {
    if (start >= end) return;
    if (joins) {
      out.back().end = end;
    } else {
      out.push_back({start, end});
    }
    joins = true;
  };
  for (const Vma& vma : vmas) {
    if (vma.shared || vma.special()) {
      joins = false;
      continue;
    }
    uint64_t at = vma.start;
    for (const Piece* piece : shared_.table.overlapping({vma.start, vma.end})) {
      add(at, piece->range.start);
      at = piece->range.end;
      joins = false;
    }
    add(at, vma.end);
  }
  return out;
}

void WriteProtectSnapshot::fix_gap(const std::vector<Vma>& vmas, Range gap) {
  const std::vector<Range> runs = shared_.scanner.content(gap);
  auto vma = std::upper_bound(vmas.begin(), vmas.end(), gap.start,
                              [](uint64_t a, const Vma& v) { return a < v.end; });
  std::vector<Range> here;
  for (auto run = runs.begin(); run != runs.end() && vma != vmas.end();) {
    // Runs of neighbouring mappings come as one.
    const Range part{std::max(run->start, vma->start), std::min(run->end, vma->end)};
    if (part.start < part.end) here.push_back(part);
    if (run->end <= vma->end) {
      ++run;
      if (run != runs.end()) continue;
    }
    if (!here.empty()) fix_new_runs(*vma, gap, here);
    here.clear();
    ++vma;
  }
}

/// Pages that came into being after phase one, or that cannot be protected.
void WriteProtectSnapshot::fix_new_runs(const Vma& vma, Range gap, const std::vector<Range>& runs) {
  const Range mapping{std::max(vma.start, gap.start), std::min(vma.end, gap.end)};
  if (!protectable(vma) || !register_mapping({vma.start, vma.end})) {
    for (const Range& run : runs) copies_.copy(shared_.memory, run);
    return;
  }
  std::vector<std::unique_ptr<Piece>> pieces = cut_pieces(mapping, runs);
  for (const auto& piece : pieces) {
    const int err = shared_.protector->protect(piece->range);
    if (err != 0) {
      fail(err, "{}: memory {} cannot be write-protected: {}", shared_.pid, range_name(piece->range), errno_text(err));
    }
    piece->fixed = true;
  }
  const std::lock_guard lock(shared_.table_mutex);
  shared_.table.insert(std::move(pieces));
}

void WriteProtectSnapshot::check_lost() const {
  if (shared_.lost) throw SnapshotLost(EAGAIN, shared_.lost_sentence);
}

/// Repeats an operation on a piece until no change of the mapping has come in between.
void WriteProtectSnapshot::with_piece(Piece& piece, const std::function<Outcome(const PieceKeeper&)>& attempt) {
  const PieceKeeper keeper = shared_.keeper();
  for (;;) {
    check_lost();
    Outcome outcome;
    {
      std::unique_lock turn(shared_.turnstile);
      const std::shared_lock shared(shared_.changes);
      turn.unlock();
      const std::lock_guard lock(piece.mutex);
      outcome = attempt(keeper);
    }
    if (outcome == Outcome::done) return;
    if (outcome == Outcome::gone) fail(ESRCH, "{}: the process has ended", shared_.pid);
    std::this_thread::yield();
  }
}

std::vector<Range> WriteProtectSnapshot::touched(const Vma& vma) {
  if (vma.shared || vma.special()) return {};
  std::vector<Range> runs = copies_.within(vma);
  std::vector<Piece*> pieces;
  {
    const std::lock_guard lock(shared_.table_mutex);
    pieces = shared_.table.overlapping({vma.start, vma.end});
  }
  for_each_index(pieces.size(), worth(), [&](size_t i) {
    with_piece(*pieces[i], [&](const PieceKeeper& keeper) { return keeper.scan(*pieces[i]); });
  });
  for (Piece* piece : pieces) {
    const std::lock_guard lock(piece->mutex);
    for (size_t page = 0; page < piece->pages(); page++) {
      if (!piece->present[page]) continue;
      const uint64_t at = piece->address(page);
      if (!runs.empty() && runs.back().end == at) {
        runs.back().end += kPageSize;
      } else {
        runs.push_back({at, at + kPageSize});
      }
    }
  }
  std::sort(runs.begin(), runs.end());
  return close_gaps(runs, vma.anonymous() ? kMergeGapPages * kPageSize : 0);
}

void WriteProtectSnapshot::read(Range range, std::span<std::byte> out) {
  for (uint64_t at = range.start; at < range.end;) {
    std::byte* to = out.data() + (at - range.start);
    uint64_t next_copy = 0;
    const std::span<const std::byte> copied = copies_.at(at, next_copy);
    uint64_t end = std::min(range.end, next_copy);
    if (!copied.empty()) {
      end = std::min(range.end, at + copied.size());
      std::memcpy(to, copied.data(), end - at);
    } else if (Piece* piece = shared_.find(at); piece) {
      const size_t first = piece->index(at);
      const size_t last = std::min({first + kFetchPages, piece->pages(), first + (end - at) / kPageSize});
      size_t from = first;
      with_piece(*piece, [&](const PieceKeeper& keeper) {
        size_t fetched = 0;
        const Outcome outcome = keeper.fetch(*piece, from, last, to + (from - first) * kPageSize, fetched);
        from += fetched;
        return outcome;
      });
      handler_->room_freed();
      end = piece->address(last);
    } else {
      // A gap that touched() has closed.
      const std::lock_guard lock(shared_.table_mutex);
      const auto pieces = shared_.table.overlapping({at, end});
      if (!pieces.empty()) end = pieces.front()->range.start;
      std::memset(to, 0, end - at);
    }
    at = end;
  }
}

void WriteProtectSnapshot::release() noexcept {
  if (!shared_.protector) return;
  shared_.lost = true;   // nothing needs to be copied any more before it is un-protected
  // The handler answers faults until nothing is registered; what it cannot answer any more is woken by the kernel.
  for (const Range& mapping : registered_) {
    const uint64_t slice = std::max(kReleaseSlice, mapping.size() / kMaxSlices / kReleaseSlice * kReleaseSlice);
    for (uint64_t at = mapping.start; at < mapping.end; at += slice) {
      shared_.protector->remove({at, std::min(at + slice, mapping.end)});
    }
  }
  handler_.reset();
  shared_.protector.reset();
  registered_.clear();
}

}  // namespace

std::unique_ptr<Snapshot> make_write_protect_snapshot(pid_t pid, const CpuWatch* cpus, ScratchFile scratch) {
  if ((userfaultfd_features() & kFeatures) != kFeatures || !PageScanner::kernel_can_scan()) {
    fail(EOPNOTSUPP, "this kernel cannot write-protect memory for a snapshot (Linux 6.7 can)");
  }
  return std::make_unique<WriteProtectSnapshot>(pid, cpus, std::move(scratch));
}

}  // namespace ckpt
