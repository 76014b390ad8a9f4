#include "engine/memory/userfault.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

namespace ckpt {

UniqueFd fetch_userfaultfd(Remote& remote, uint64_t flags, uint64_t features) {
  const long there = remote.syscall(SYS_userfaultfd, flags | O_CLOEXEC | O_NONBLOCK);
  if (there < 0) {
    errno = static_cast<int>(-there);
    return {};
  }
  const UniqueFd pid_fd(static_cast<int>(::syscall(SYS_pidfd_open, remote.pid(), 0)));
  UniqueFd uffd(pid_fd ? static_cast<int>(::syscall(SYS_pidfd_getfd, pid_fd.get(), there, 0)) : -1);
  int err = errno;
  remote.syscall(SYS_close, static_cast<uint64_t>(there));
  if (uffd) {
    uffdio_api api = {};
    api.api = UFFD_API;
    api.features = features;
    if (::ioctl(uffd.get(), UFFDIO_API, &api) == 0) return uffd;
    err = errno;
    uffd.reset();
  }
  errno = err;
  return {};
}

uint64_t userfaultfd_features() {
  static const uint64_t features = [] {
    const UniqueFd uffd(static_cast<int>(::syscall(SYS_userfaultfd, kUffdUserModeOnly | O_CLOEXEC)));
    uffdio_api api = {};
    api.api = UFFD_API;
    return uffd && ::ioctl(uffd.get(), UFFDIO_API, &api) == 0 ? api.features : 0;
  }();
  return features;
}

}  // namespace ckpt
