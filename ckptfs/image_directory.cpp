#include "ckptfs/image_directory.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "engine/base/error.h"
#include "engine/image/write_directory.h"
#include "engine/process/as_caller.h"
#include "engine/process/procfs.h"

namespace ckpt {

namespace {

/// Of the filesystem that a descriptor of ours is on; empty for one that is not mounted here.
std::string filesystem_type(int fd) {
  const UniqueFd self = open_at(AT_FDCWD, "/proc/self", O_RDONLY | O_DIRECTORY);
  const std::string info = read_file(self.get(), fmt::format("fdinfo/{}", fd));
  constexpr std::string_view kMount = "mnt_id:\t";
  const size_t at = info.find(kMount);
  if (at == std::string::npos) return {};
  const auto types = read_mount_types(self.get());
  const auto it = types.find(std::atoi(info.c_str() + at + kMount.size()));
  return it == types.end() ? std::string() : it->second;
}

}  // namespace

ImageDirectory::ImageDirectory(const Caller& caller, pid_t pid, int fd) : caller_(caller) {
  const UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!process) fail_errno("{}: pidfd_open", pid);
  check_may_checkpoint(caller, pid);
  directory_.reset(static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), fd, 0)));
  if (!directory_) fail_errno("{}: fd {}", pid, fd);
  name_ = read_link(AT_FDCWD, fmt::format("/proc/self/fd/{}", directory_.get()));
  // No server is asked for what it is: it need not answer.
  struct statx st = {};
  if (::statx(directory_.get(), "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &st) != 0) {
    fail_errno("{}: fd {} ({})", pid, fd, name_);
  }
  if (!S_ISDIR(st.stx_mode)) fail(ENOTDIR, "{}: fd {} ({}) is not a directory", pid, fd, name_);
  const std::string type = filesystem_type(directory_.get());
  if (type.empty() || type.starts_with("fuse")) {
    fail(EOPNOTSUPP, "{}: fd {} ({}): an image cannot be written into a directory of a FUSE filesystem", pid, fd, name_);
  }
}

void ImageDirectory::write(const ImageSource& image) const {
  const AsCaller rights(caller_);
  write_directory(image, directory_.get(), name_);
}

}  // namespace ckpt
