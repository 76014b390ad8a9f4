// A process's memory as of one instant, read while the process runs on.
//
// Strategies, best first; which one serves is decided from the kernel's features and the target (choose_snapshot):
//   write-protect   userfaultfd write-protection in two phases (privileged targets)
//   pre-copy        asynchronous write-protection and PAGEMAP_SCAN; the pages dirtied meanwhile are copied in the stop
//   fork            a copy-on-write child of the target, invisible to it, reaped afterwards
//   copy            everything is read while stopped: always possible, also used when the process is not to go on
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/image/image.h"
#include "engine/process/remote.h"

namespace ckpt {

/// One mapping (VMA) of a process.
struct Vma {
  uint64_t start = 0, end = 0;
  uint32_t prot = 0;             ///< PROT_*
  bool shared = false;
  uint64_t offset = 0;           ///< into the file, bytes
  uint32_t dev_major = 0, dev_minor = 0;
  uint64_t inode = 0;
  std::string path;              ///< as in /proc/PID/maps: a path, "[heap]", "" ...
  std::string vm_flags;          ///< two-letter words of smaps' VmFlags, "" where not read
  bool has_flag(std::string_view two_letters) const;
  bool anonymous() const { return inode == 0 && !shared; }
  bool special() const;          ///< [vdso], [vvar], [vvar_vclock], [vsyscall]
};

/// Text of /proc/PID/maps or smaps -> VMAs. Throws Error(EINVAL) with `where` on malformed text (hostile in an image).
std::vector<Vma> parse_maps(std::string_view text, const std::string& where);

/// A run of memory to save, page-aligned.
struct Range {
  uint64_t start = 0, end = 0;
  uint64_t size() const { return end - start; }
};

/// A fixed instant of a process's memory. Used by one control thread; read() by several.
class Snapshot {
 public:
  virtual ~Snapshot() = default;
  /// Name for stats and manifest: "write-protect", "pre-copy", "fork", "copy".
  virtual const char* name() const = 0;
  /// While the process runs (traced, not stopped): prepare what makes the stop short. May do nothing.
  virtual void prepare(const std::vector<Vma>& vmas) = 0;
  /// While stopped: fixes the instant. `vmas` is the table as of the stop.
  virtual void fix(const std::vector<Vma>& vmas, Remote& leader) = 0;
  /// True where the process must stay stopped until drain() has returned ("copy").
  virtual bool needs_stop() const { return false; }
  /// The runs of touched pages that must be saved for this VMA, as of the instant. Ascending, disjoint.
  virtual std::vector<Range> touched(const Vma& vma) = 0;
  /// Reads pages of `range` as of the instant. Each page is read once; thread-safe for disjoint ranges.
  virtual void read(Range range, std::span<std::byte> out) = 0;
  /// Removes every trace from the process. Called also from the destructor.
  virtual void release() = 0;
};

}  // namespace ckpt
