// The process that is measured: memory of unique 4 KiB pages, and a loop that notices when it does not run.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <string>

namespace ckpt::bench {

/// Shared with the victim through a small mapped file: a pipe would lead outside of it and be refused.
struct VictimBoard {
  std::atomic<uint64_t> ready;           ///< 1 when the memory is filled
  std::atomic<uint64_t> address;         ///< of the memory
  std::atomic<uint64_t> children;        ///< that are there
  std::atomic<uint64_t> loops;           ///< counts on while it runs
  std::atomic<uint64_t> largest_gap_ns;  ///< between two rounds of the loop; reset by whoever measures
};

/// A victim, killed at the end. The constructor waits until its memory is filled.
class Victim {
 public:
  /// `writing`: 2% of its pages are written at random per 100 ms, in a loop of 100 us; else it sleeps. `huge`
  /// asks for huge pages. The board is a file in `dir`. It has as many `children`, made by fork when the memory is filled.
  Victim(const std::string& dir, uint64_t size, bool writing, bool huge = false, unsigned children = 0);
  Victim(const Victim&) = delete;
  Victim& operator=(const Victim&) = delete;
  ~Victim();

  pid_t pid() const { return pid_; }
  VictimBoard& board() { return *board_; }
  /// Kills it and its children, and waits until their pids are free.
  void end();
  /// It runs again under its pid, as no child of ours: waits until its loop counts.
  void wait_until_running();

 private:
  std::string file_;
  VictimBoard* board_ = nullptr;
  pid_t pid_ = -1;
};

}  // namespace ckpt::bench
