// userfaultfd(2) of another process: made inside it, used from here.
#pragma once

#include <linux/userfaultfd.h>

#include <cstdint>
#include <optional>

#include "engine/base/fd.h"
#include "engine/image/maps.h"
#include "engine/process/remote.h"

namespace ckpt {

/// Flag of userfaultfd(2): faults of the kernel on the process's behalf are not delivered (they fail with EFAULT). Needs
/// no privilege. Linux 5.11.
inline constexpr uint64_t kUffdUserModeOnly = 1;

/// Makes a userfaultfd for the stopped process of `remote` by system calls in it, takes it over and closes it there, so
/// that nothing is left in its table. `features` must all be offered by the kernel (UFFDIO_API). Returns none, with
/// errno set, where the kernel does not allow or offer it. Throws Error(ESRCH) if the process died.
///
/// Without kUffdUserModeOnly the process itself would need CAP_SYS_PTRACE; where it lacks that and we may open
/// /dev/userfaultfd, that device (Linux 6.1) is lent to it for one ioctl.
UniqueFd fetch_userfaultfd(Remote& remote, uint64_t flags, uint64_t features);

/// The features that this kernel offers (UFFDIO_API), 0 without userfaultfd. Probed once.
uint64_t userfaultfd_features();

/// The ioctls of write-protection. Functions that return int give 0 or an errno. Thread-safe.
///   EAGAIN   the process is in the middle of munmap, mremap or madvise: its event must be read first
///   ENOENT   part of the range is not (or no longer) registered
///   ESRCH    the address space is gone
class WriteProtector {
 public:
  explicit WriteProtector(UniqueFd uffd);

  int fd() const { return uffd_.get(); }
  int add(Range range) const;
  int remove(Range range) const;
  int protect(Range range) const { return set(range, UFFDIO_WRITEPROTECT_MODE_WP); }
  /// Also wakes every thread that waits for a page of the range.
  int unprotect(Range range) const { return set(range, 0); }
  /// As unprotect, but goes on page by page where a part of the range has gone, and wakes in any case.
  int unprotect_rest(Range range) const;

  /// One message, or none where nothing is pending. Page faults come before events (fs/userfaultfd.c).
  std::optional<uffd_msg> next_message() const;
  /// Faults that wait to be read, from our fdinfo; events are not counted, which is how they can be told apart
  /// before one is read, and its process let go on.
  uint64_t pending_faults() const;

 private:
  int set(Range range, uint64_t mode) const;

  UniqueFd uffd_;
  UniqueFd fdinfo_;
};

}  // namespace ckpt
