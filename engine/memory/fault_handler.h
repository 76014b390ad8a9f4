// The thread that answers the faults and events of a write-protected process.
#pragma once

#include <atomic>
#include <string>
#include <thread>

#include "engine/memory/pieces.h"

namespace ckpt {

/// What the control thread, the copiers and the fault handler of one snapshot share.
///
/// Lock order: turnstile, changes, table, a piece.
struct ProtectedMemory {
  ProtectedMemory(pid_t p, size_t side_pages, ScratchFile scratch)
      : pid(p), scanner(p), memory(p), side(side_pages, std::move(scratch)) {}

  const pid_t pid;
  PageScanner scanner;
  RemoteMemory memory;
  SidePages side;
  std::optional<WriteProtector> protector;   ///< set once, in prepare()

  std::mutex table_mutex;                    ///< guards `table`
  PieceTable table;

  /// Held shared while a copier reads pages, exclusively while the handler reads an event: an event lets madvise go on
  /// to drop pages, so no copier may be between reading a page and confirming it. The turnstile lets the one writer
  /// in past the readers.
  std::mutex turnstile;
  std::shared_mutex changes;

  std::atomic<bool> fixed = false;           ///< the instant has been
  std::atomic<bool> lost = false;            ///< content of the instant is gone; `lost_sentence` was written before
  std::string lost_sentence;

  PieceKeeper keeper() { return {scanner, memory, *protector, side}; }
  Piece* find(uint64_t address) {
    const std::lock_guard lock(table_mutex);
    return table.find(address);
  }
};

/// Runs from its construction to its destruction. The process may not be left without it while anything is protected
/// (closing the userfaultfd wakes whoever waits).
class FaultHandler {
 public:
  explicit FaultHandler(ProtectedMemory& shared);
  FaultHandler(const FaultHandler&) = delete;
  ~FaultHandler();

  /// A side page has become free: faults that wait for one may be answered. Thread-safe.
  void room_freed();

 private:
  void run() noexcept;
  void step();
  void read_message();
  void read_event();
  void before_expected_event();
  void save_range(Range range);
  void on_event(const uffd_msg& message, bool expected);
  void on_removal(Range range, bool expected);
  void on_unmap(Range range);
  void change_before_instant(Range range, bool unmapped);
  void on_fault(uint64_t page);
  Outcome answer(uint64_t page);
  Outcome answer_before_instant(Piece& piece, size_t page);
  Outcome unprotect(Range range);
  void lose_range(Range range, const char* what);
  void lose(std::string sentence);

  ProtectedMemory& shared_;
  UniqueFd wake_;                        ///< eventfd: stop, or room_freed()
  std::atomic<bool> stop_ = false;
  std::atomic<bool> starving_ = false;   ///< room_freed() is waited for
  std::vector<uint64_t> starved_;        ///< faults that wait for a side page
  std::vector<uint64_t> deferred_;       ///< faults that wait for an event to be over
  std::thread thread_;
};

}  // namespace ckpt
