// userfaultfd(2) of another process: made inside it, used from here.
#pragma once

#include <cstdint>

#include "engine/base/fd.h"
#include "engine/memory/snapshot.h"

namespace ckpt {

/// Flag of userfaultfd(2): faults of the kernel on the process's behalf are not delivered (they fail with EFAULT). Needs
/// no privilege. Linux 5.11.
inline constexpr uint64_t kUffdUserModeOnly = 1;

/// Makes a userfaultfd for the stopped process of `remote` by a system call in it, takes it over and closes it there,
/// so that nothing is left in its table. `features` must all be offered by the kernel (UFFDIO_API). Returns none, with
/// errno set, where the kernel does not allow or offer it. Throws Error(ESRCH) if the process died.
UniqueFd fetch_userfaultfd(Remote& remote, uint64_t flags, uint64_t features);

/// The features that this kernel offers (UFFDIO_API), 0 without userfaultfd. Probed once.
uint64_t userfaultfd_features();

}  // namespace ckpt
