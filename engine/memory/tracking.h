// Which pages of a process have been written since its last image: asynchronous write-protection with userfaultfd
// (UFFD_FEATURE_WP_ASYNC) and PAGEMAP_SCAN, Linux 6.7.
//
// A userfaultfd made in the process, and held by us alone, lives from one checkpoint to the next. A page that is protected
// counts as unwritten; the first write to it takes the protection away, inside the fault and without anybody being asked.
// When we end, or are killed, the kernel takes the registration and every protection back.
//
// A page is taken from the last image only where all of this is proven; anything else is read:
//   - its mapping was registered before the last image's instant, and ever since: a mapping that is new, was moved or was
//     mapped over has lost its registration (mm/mremap.c, userfaultfd_unmap_prep()), and whatever is found without one
//     counts as written as a whole before it is registered again
//   - the page is protected: it was protected before that instant, was not written, dropped (MADV_DONTNEED) or replaced
//     since, for each of these leaves an entry without protection
//   - the last image has it
// Protection is given in a stop of all threads, or with one after it, before anything is compared: a device that writes into
// pages which a read(2) under way has given it (O_DIRECT) takes no fault for it, but a thread that stands still has no read
// under way, and what a later one wants to write to it unprotects first.
// Not so with another process, which does not stand still where protection is given before the instant, and has just then pinned pages that it writes to
// (process_vm_rw_single_vec() in mm/process_vm_access.c; access_remote_vm() for /proc/PID/mem): what it writes to a page that
// was protected meanwhile leaves no trace, on Linux 6.18 either. ckpt-ctl(5) tells the user.
// Only private anonymous memory is followed; file mappings, shared memory, and mappings that the process has registered with
// a userfaultfd of its own, are read in full each time. A child of fork(2) has its parent's memory without registration.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/memory/image_segments.h"
#include "engine/memory/page_scan.h"
#include "engine/memory/range_set.h"
#include "engine/memory/remote_memory.h"
#include "engine/memory/userfault.h"
#include "engine/process/remote.h"

namespace ckpt {

/// Of one process. Used by one checkpoint at a time.
class MemoryTracking {
 public:
  /// A process that has more of them is not followed: each costs a call in the stop.
  static constexpr size_t kMostMappings = 4096;

  /// `large_bytes` as for TrackingSet. Throws Error(ESRCH).
  MemoryTracking(pid_t pid, uint64_t large_bytes);
  ~MemoryTracking() { end(); }
  MemoryTracking(const MemoryTracking&) = delete;
  MemoryTracking& operator=(const MemoryTracking&) = delete;

  /// True where this kernel has all that it takes.
  static bool kernel_can();
  bool process_ended() const;

  /// At the begin of a checkpoint: looks at the address space that the process has now, which execve(2) may have changed. What
  /// is followed is that of the userfaultfd; adopt() and is_followed() notice. Throws Error(ESRCH, EACCES).
  void look_anew();
  /// In a stop: makes the userfaultfd, where that is possible. Throws Error(ESRCH) only.
  void attach(Remote& leader);
  bool attached() const { return protector_.has_value(); }
  /// After an image of all memory: from here on writes are followed. Protects what is there, and compares it with the image:
  /// what was written between its instant and now. The process runs; `stop_once` stops all its threads for a moment. Throws
  /// Error(EINTR); whatever else fails ends it. With less than `least_bytes` of memory it is not worth it.
  void begin(std::shared_ptr<const ImageSource> image, const std::string& prefix, uint64_t least_bytes,
             const std::function<void()>& stop_once, const CancelFlag* cancel);
  /// There is an image to refer to.
  bool follows() const { return base_.image() != nullptr; }
  const ImageSegments& base() const { return base_; }
  bool is_large() const { return base_.bytes() >= large_bytes_; }
  /// An image was taken by this tracking's own snapshot, and is durable.
  void advance(std::shared_ptr<const ImageSource> image, const std::string& prefix);
  /// Too much is written for this to be worth it: end(), and not again for the next few checkpoints.
  void give_up() noexcept;
  /// Takes everything back from the process, in slices that it does not notice.
  void end() noexcept;

  /// Whether it is private memory of the kind that is followed.
  static bool followable(const Vma& vma);
  /// With us, or with an asynchronous userfaultfd of somebody else.
  bool registered(Range mapping) const;
  /// Registers a mapping that was found without registration: all of it counts as written. False where that cannot be. Throws
  /// Error(ESRCH) where the address space is another by now (execve(2)).
  bool adopt(Range mapping);
  /// In a stop: that a mapping is registered with us, or adopted now; false where that cannot be. Throws Error: ESRCH as
  /// adopt(), EBUSY where somebody else watches it.
  bool is_followed(Range mapping);
  /// Protects the present pages of a range that are not protected, and returns them, ascending. Where the range is not
  /// registered, nothing. Thread-safe; whoever calls adds them to changed().
  std::vector<Range> protect_written(Range range) const;
  struct Run {
    Range range;
    bool written;   ///< without protection
  };
  /// The pages of a mapping of private memory, or a part of it, that have content, ascending. Thread-safe.
  std::vector<Run> content(Range range, bool anonymous) const;

  /// Pages that are not as in the image, whether they are protected or not.
  RangeSet& changed() { return changed_; }
  const PageScanner& scanner() const { return *scanner_; }
  const RemoteMemory& memory() const { return *memory_; }
  pid_t pid() const { return pid_; }

 private:
  void protect_all(const std::vector<Vma>& vmas, const CancelFlag* cancel);
  void compare(Range run, std::vector<std::byte>& ours, const CancelFlag* cancel);

  int add(Range mapping) const;

  const pid_t pid_;
  const uint64_t large_bytes_;
  std::optional<RemoteMemory> memory_;
  std::optional<PageScanner> scanner_;
  UniqueFd pid_fd_;
  UniqueFd pagemap_;
  std::optional<WriteProtector> protector_;
  RangeSet adopted_;          // some may be of others by now
  ImageSegments base_;
  RangeSet changed_;
  unsigned pause_ = 0;        // for how many checkpoints the last give_up() was
  unsigned paused_for_ = 0;   // how many of them are to come
};

}  // namespace ckpt
