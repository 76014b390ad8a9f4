// The unit of write-protection: a piece of at most 4 MiB of one mapping, and what is known of its pages.
//
// Life of a piece:
//   armed      protected while the process runs; a write un-protects its window of 64 KiB and marks it dirty
//   fixed      dirty windows are protected again, during the stop; from here on a page's content of the instant is
//              either still in the process, protected, or taken: read by the copier, or kept in side pages because the
//              process wanted to write to it
#pragma once

#include <bitset>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <string>
#include <vector>

#include "engine/memory/page_scan.h"
#include "engine/memory/remote_memory.h"
#include "engine/memory/side_pages.h"
#include "engine/memory/userfault.h"

namespace ckpt {

inline constexpr size_t kPiecePages = 1024;
inline constexpr uint64_t kPieceBytes = kPiecePages * kPageSize;
inline constexpr size_t kWindowPages = 16;
/// Windows of a piece, and of a huge page within it.
inline constexpr size_t kWindows = kPiecePages / kWindowPages;
inline constexpr size_t kHugeWindows = 512 / kWindowPages;

struct Piece {
  explicit Piece(Range r) : range(r) {}

  const Range range;
  std::mutex mutex;                      ///< guards what follows
  bool huge = false;                     ///< holds pages of 2 MiB: dirty windows are as large
  bool fixed = false;
  bool scanned = false;                  ///< `present` is valid
  std::bitset<kWindows> dirty;
  std::bitset<kPiecePages> present;      ///< pages with content, as of the instant
  std::bitset<kPiecePages> taken;        ///< pages whose content no longer depends on the process
  std::map<size_t, SidePages::Slot> side;     ///< taken pages that the copier has not fetched yet

  size_t index(uint64_t address) const { return (address - range.start) / kPageSize; }
  uint64_t address(size_t page) const { return range.start + page * kPageSize; }
  size_t pages() const { return range.size() / kPageSize; }
};

/// Sorted, disjoint. Not thread-safe; pieces themselves stay where they are.
class PieceTable {
 public:
  /// The piece that holds an address, or nullptr.
  Piece* find(uint64_t address) const;
  /// Those that overlap a range, ascending.
  std::vector<Piece*> overlapping(Range range) const;
  std::vector<Piece*> all() const;
  void insert(std::vector<std::unique_ptr<Piece>> pieces);
  /// Takes a piece out; it stays allocated, for whoever still looks at it.
  void drop(Piece* piece);
  bool empty() const { return pieces_.empty(); }

 private:
  size_t first_ending_after(uint64_t address) const;

  std::vector<std::unique_ptr<Piece>> pieces_;
  std::vector<std::unique_ptr<Piece>> dropped_;
};

/// Cuts the runs of one mapping into pieces: aligned slots of 4 MiB that hold at least one page, clipped to the mapping.
std::vector<std::unique_ptr<Piece>> cut_pieces(Range mapping, const std::vector<Range>& runs);

/// Outcome of an attempt to secure pages.
enum class Outcome {
  done,
  changing,   ///< munmap, mremap or madvise is under way: whatever was read is void, try again after its event
  no_room,    ///< no side page is free
  gone,       ///< the address space has ended
};

/// The operations on one piece of a fixed snapshot. The caller holds the piece's mutex.
///
/// What was read counts only if un-protecting succeeds afterwards: the kernel refuses it (EAGAIN) from before an
/// munmap, mremap or madvise begins until its event has been read (mmap_changing in fs/userfaultfd.c). Without this
/// order a page could be read after it was replaced, and nobody would know.
class PieceKeeper {
 public:
  PieceKeeper(const PageScanner& scanner, const RemoteMemory& memory, const WriteProtector& protector,
              SidePages& side)
      : scanner_(scanner), memory_(memory), protector_(protector), side_(side) {}

  /// Finds out which pages have content. First of all on every fixed piece.
  Outcome scan(Piece& piece) const;
  /// Copies pages [first, last) into side pages and un-protects them, for a thread that wants to write.
  Outcome save(Piece& piece, size_t first, size_t last) const;
  /// The same for one page of a piece that may not have been scanned yet; not to be repeated where it does not succeed.
  Outcome save_early(Piece& piece, size_t page) const;
  /// As save(), but while madvise waits for its event to be read: nothing can be un-protected, nor need it be.
  Outcome save_before_removal(Piece& piece, size_t first, size_t last) const;
  /// Hands pages [first, last) to the copier and un-protects them. What was handed over even where the outcome is not
  /// `done` is `fetched`, in pages: go on from there, each page is handed out once.
  Outcome fetch(Piece& piece, size_t first, size_t last, std::byte* out, size_t& fetched) const;

 private:
  using Copied = std::vector<std::pair<size_t, SidePages::Slot>>;
  // Runs are of pages not yet taken: what has been unmapped counts as taken, so that a run is wholly registered and
  // un-protecting it either succeeds or changes nothing.
  static size_t run_end(const Piece& piece, size_t first, size_t last);
  Outcome copy_aside(const Piece& piece, size_t first, size_t last, Copied& copied) const;
  Outcome save_run(Piece& piece, size_t first, size_t last, bool unprotect) const;
  Outcome save_runs(Piece& piece, size_t first, size_t last, bool unprotect) const;
  Outcome fetch_run(Piece& piece, size_t first, size_t last, std::byte* out) const;
  void fetch_taken(Piece& piece, size_t page, std::byte* out) const;
  static Outcome outcome_of(int err);

  const PageScanner& scanner_;
  const RemoteMemory& memory_;
  const WriteProtector& protector_;
  SidePages& side_;
};

}  // namespace ckpt
