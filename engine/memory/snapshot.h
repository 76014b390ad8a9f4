// A process's memory as of one instant, read while the process runs on.
//
// Strategies; which one serves is decided from the kernel's features and the target (choose_snapshot):
//   tracked         what was written since the last image is copied, the rest is that image's (tracking.h)
//   write-protect   userfaultfd write-protection in two phases (privileged daemon, Linux 6.7)
//   kernel          a copy-on-write copy by the kernel module, where it is loaded
//   fork            a copy-on-write copy of the target, no child of it
//   copy            everything is read while stopped: always possible, also used when the process is not to go on
//
// How the control thread uses one (each step may do nothing; errors are Error, the process is then let go unharmed):
//
//   auto snapshot = choose_snapshot(pid, target);
//   if (snapshot->wants_prepare_stop()) {
//     ...stop...; snapshot->prepare(vmas, leader); ...resume...     // a few system calls in the process, ~0.2 ms
//     snapshot->arm(vmas);                                          // process running; the long part
//   }
//   ...stop...; snapshot->fix(vmas, leader);                        // THE instant
//   if (snapshot->needs_stop()) capture_memory(*snapshot, ...);     // "copy"
//   ...resume...
//   if (!snapshot->needs_stop()) capture_memory(*snapshot, ...);    // any thread; throws SnapshotLost
//   snapshot->release();
//
// All of it in the thread that traces the process. A SnapshotLost means: the process has unmapped memory that was not
// copied yet, or does not allow this strategy (also from prepare()). Nothing is wrong with the process; release, begin a
// new image and take it again with choose_snapshot(..., without = "write-protect").
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/error.h"
#include "engine/engine.h"
#include "engine/image/image.h"
#include "engine/image/maps.h"
#include "engine/memory/side_pages.h"
#include "engine/process/cpu_watch.h"
#include "engine/process/remote.h"

namespace ckpt {

class MemoryTracking;

/// Memory of the instant is gone before it was copied (see above). err() is EAGAIN.
class SnapshotLost : public Error {
 public:
  using Error::Error;
};

/// A fixed instant of a process's memory. Used by one control thread; read() by several.
class Snapshot {
 public:
  virtual ~Snapshot() = default;
  /// "tracked", "kernel", "write-protect", "fork", "copy", "none".
  virtual const char* name() const = 0;
  virtual pid_t pid() const = 0;
  /// From fix() on: whether it is the work of the kernel module.
  virtual bool by_module() const { return false; }

  /// True where prepare() must be called in a short stop of its own before the real one.
  virtual bool wants_prepare_stop() const { return false; }
  /// While stopped, the first time: the few calls that must be made inside the process.
  virtual void prepare(const std::vector<Vma>&, Remote&) {}
  /// While the process runs again (traced): the long preparation that makes the stop short.
  /// Called after the prepare stop, or without one where writes are followed (base()).
  virtual void arm(const std::vector<Vma>&) {}

  /// While stopped, before fix(): addresses of words that the kernel writes for a thread that ends, and gives up where a
  /// fault would have to be waited for (handle_userfault() in fs/userfaultfd.c does not wait for one that exits). Their
  /// pages must not be protected. Duplicates are allowed.
  virtual void spare(std::vector<uint64_t>) {}
  /// While stopped: fixes the instant. `vmas` is the table as of the stop (VmFlags are not needed).
  virtual void fix(const std::vector<Vma>& vmas, Remote& leader) = 0;
  /// True where the process must stay stopped until everything has been read ("copy").
  virtual bool needs_stop() const { return false; }
  /// The runs of touched pages that must be saved for this VMA, as of the instant. Ascending, disjoint.
  virtual std::vector<Range> touched(const Vma& vma) = 0;
  /// Reads pages of `range` as of the instant; `range` lies within one result of touched(). Each page is read once;
  /// thread-safe for disjoint ranges. Throws SnapshotLost; Error(ESRCH, EIO) where the process died.
  virtual void read(Range range, std::span<std::byte> out) = 0;
  /// The image that has the pages which were not written since it was taken; null where all are read.
  virtual const ImageSource* base() const { return nullptr; }
  /// What read() of `range` leaves out, since it is in base(): ascending, `at` counts from the start of the range. Thread-safe.
  virtual std::vector<SamePages> unchanged(Range) const { return {}; }

  /// Removes every trace from the process; also called by the destructor. Never throws.
  virtual void release() noexcept = 0;
};

/// What choose_snapshot goes by.
struct SnapshotTarget {
  pid_t pid = 0;
  /// The process is ended or left stopped afterwards: a short stop is worth nothing.
  bool stays_stopped = false;
  /// False where no memory is wanted: nothing is touched then.
  bool memory = true;
  EngineChoice engine = EngineChoice::automatic;
  /// Where writes have been followed since the last image; null where not.
  MemoryTracking* tracking = nullptr;
  /// Name of a strategy not to take (after SnapshotLost): this one and better ones are passed over.
  std::string_view without = {};
  /// Name of the only strategy to take, for tests and measurements. Error(EOPNOTSUPP) where the kernel lacks it.
  std::string_view only = {};
  /// Of the process; outlives the snapshot. None: CPUs are taken to be free.
  const CpuWatch* cpus = nullptr;
  /// For pages that are written faster than they are stored; see SidePages.
  ScratchFile scratch = {};
  /// Asked in fix(): whether a child that the process left behind would come to a process of this checkpoint, which must
  /// not see it. None: it would not.
  std::function<bool()> orphans_stay = {};
};

/// Decides from the kernel, our own privileges, and the process's table and resident size. Cheap (no page table is
/// walked). Throws Error(ESRCH); ENOENT or EACCES where the module is to serve and does not.
std::unique_ptr<Snapshot> choose_snapshot(const SnapshotTarget& target, const std::vector<Vma>& vmas);

/// The strategies themselves (tests, benchmarks). Error(EOPNOTSUPP) where the kernel lacks what it takes.
/// `buffer`: where no more than these bytes are found, they are read during fix() and the process need not wait.
std::unique_ptr<Snapshot> make_copy_snapshot(pid_t pid, uint64_t buffer = 0);
std::unique_ptr<Snapshot> make_kernel_snapshot(pid_t pid);
std::unique_ptr<Snapshot> make_fork_snapshot(pid_t pid, std::function<bool()> orphans_stay = {});
std::unique_ptr<Snapshot> make_write_protect_snapshot(pid_t pid, const CpuWatch* cpus = nullptr,
                                                      ScratchFile scratch = {});
/// `tracking` outlives it, and follows the process already. A SnapshotLost has ended it.
std::unique_ptr<Snapshot> make_tracked_snapshot(MemoryTracking& tracking);
/// By its name().
std::unique_ptr<Snapshot> make_snapshot(std::string_view name, const SnapshotTarget& target);

}  // namespace ckpt
