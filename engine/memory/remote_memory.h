// Plain reading and writing of another process's memory.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <span>

#include "engine/base/fd.h"

namespace ckpt {

/// Reads by process_vm_readv(2), which is fastest (notes: 1-4 MiB a call into a reused buffer), and through /proc/PID/mem,
/// which reads whatever a debugger may, where that is refused (PROT_NONE), or would change which pages the process has in
/// common with others after fork(2). Thread-safe.
class RemoteMemory {
 public:
  /// `only_mem` leaves process_vm_readv out: on a copy-on-write child it un-shares nearly every page.
  /// Throws Error(ESRCH, EACCES).
  explicit RemoteMemory(pid_t pid, bool only_mem = false);
  pid_t pid() const { return pid_; }

  /// Exactly to.size() bytes or Error: ESRCH (ended), EIO (not readable).
  void read(uint64_t from, std::span<std::byte> to) const;
  /// As read(), but returns 0 or the errno.
  int try_read(uint64_t from, std::span<std::byte> to) const noexcept;
  /// Goes through read-only private mappings as well. Error: ESRCH, EIO.
  void write(uint64_t to, std::span<const std::byte> from) const;

 private:
  /// How the next bytes are read, and how many at once.
  struct Run {
    size_t size;
    bool may_be_pinned;
  };
  Run next_run(uint64_t from, size_t size) const noexcept;

  pid_t pid_;
  bool only_mem_;
  UniqueFd mem_;
  UniqueFd pagemap_;             // none with only_mem
};

}  // namespace ckpt
