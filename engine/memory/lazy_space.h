// One address space whose pages come while its process runs: missing faults and events of a userfaultfd.
//
// A page is put where it is missing, and nowhere else (UFFDIO_COPY gives EEXIST). What the process does to its mappings
// meanwhile is heard of before it goes on (UFFD_FEATURE_EVENT_REMAP, REMOVE, UNMAP, FORK), and no copy may succeed between that and
// our knowing of it: the kernel refuses copies from the change until its event has been read (EAGAIN, mmap_changing in
// fs/userfaultfd.c), and here no copy is under way while one is read and taken note of.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <span>
#include <vector>

#include "engine/image/image.h"
#include "engine/memory/lazy_map.h"
#include "engine/memory/userfault.h"

namespace ckpt {

/// Of all lazy fills of a mount.
struct LazyFigures {
  std::atomic<uint64_t> bytes{0};    ///< brought in
  std::atomic<uint64_t> faults{0};   ///< of the processes, that were waited for
};

/// step() belongs to one thread; fill_next() may be called by others meanwhile.
class LazySpace {
 public:
  /// What userfaultfd(2) must offer.
  static constexpr uint64_t kFeatures =
      UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP;

  LazySpace(pid_t pid, UniqueFd uffd, std::shared_ptr<const ImageSource> image, LazyFigures& figures);
  LazySpace(const LazySpace&) = delete;
  LazySpace& operator=(const LazySpace&) = delete;

  /// Before anything runs: takes over a mapping; false where the kernel does not allow it.
  bool add_mapping(Range mapping);
  /// Pages of such a mapping: content of the image from `offset` on.
  void add(Range range, const LazyMap::Path& path, uint64_t offset) { map_.add(range, path, offset); }

  pid_t pid() const { return pid_; }
  /// Of a child, when it is known.
  void set_pid(pid_t pid) { pid_ = pid; }
  int fd() const { return uffd_.fd(); }

  /// Deals with one message, and with what had to wait; false where there was nothing to do. A child that was forked with such
  /// memory comes out at `child`; its pid is 0, and its parent's pid() this one. Throws Error(EIO) where a page of the image
  /// cannot be had.
  /// `born` is set to 1 as soon as there is one.
  bool step(std::unique_ptr<LazySpace>& child, int& born);
  /// There is something that step() has to come back to.
  bool has_deferred() const { return !deferred_.empty(); }
  /// Brings in one more piece. False where it was not to be done just now, or nothing is left. Throws as step().
  bool fill_next();
  /// Everything is there, or the address space is gone.
  bool done() const;
  uint64_t bytes_left() const;

 private:
  enum class Outcome { done, later };

  LazySpace(const LazySpace& parent, UniqueFd uffd);
  std::unique_ptr<LazySpace> take_note(const uffd_msg& event);
  bool answer(uint64_t page);
  Outcome fill(const LazyMap::Piece& piece, uint64_t generation);
  Outcome put(uint64_t at, std::span<const std::byte> pages);
  Outcome put_zero(uint64_t page);
  void forget_all();

  std::atomic<pid_t> pid_;
  const WriteProtector uffd_;
  const std::shared_ptr<const ImageSource> image_;
  LazyFigures& figures_;

  /// Held shared by who copies, exclusively while a message is read and taken note of. The turnstile lets the one writer in
  /// past the readers. Lock order: turnstile, changes, mutex.
  std::mutex turnstile_;
  std::shared_mutex changes_;
  mutable std::mutex mutex_;          // guards what follows
  LazyMap map_;
  uint64_t generation_ = 0;           // of the mappings
  uint64_t next_ = 0;                 // where the background is
  std::vector<uint64_t> deferred_;    // faults that an event comes before
};

}  // namespace ckpt
