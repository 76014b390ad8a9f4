#include "engine/base/fd.h"

#include <fcntl.h>

#include "engine/base/error.h"

namespace ckpt {

UniqueFd open_at(int dirfd, const std::string& path, int flags, unsigned mode) {
  UniqueFd fd(::openat(dirfd, path.c_str(), flags | O_CLOEXEC, mode));
  if (!fd) fail_errno("{}", path);
  return fd;
}

std::string read_all(int fd, const std::string& name, size_t limit) {
  std::string out;
  size_t used = 0;
  size_t chunk = 16 << 10;
  for (;;) {
    out.resize(used + chunk);
    const ssize_t n = ::read(fd, out.data() + used, chunk);
    if (n < 0) {
      if (errno == EINTR) continue;
      fail_errno("{}: read", name);
    }
    if (n == 0) break;
    used += static_cast<size_t>(n);
    if (used > limit) fail(EFBIG, "{}: larger than {} bytes", name, limit);
    // /proc files hand out at most a page or so a call: grow the request with what has come.
    if (used > chunk) chunk = used;
  }
  out.resize(used);
  return out;
}

std::string read_file(int dirfd, const std::string& path, size_t limit) {
  const UniqueFd fd = open_at(dirfd, path, O_RDONLY);
  return read_all(fd.get(), path, limit);
}

std::string read_file(const std::string& path, size_t limit) { return read_file(AT_FDCWD, path, limit); }

void write_all(int fd, std::string_view data, const std::string& name) {
  while (!data.empty()) {
    const ssize_t n = ::write(fd, data.data(), data.size());
    if (n < 0) {
      if (errno == EINTR) continue;
      fail_errno("{}: write", name);
    }
    data.remove_prefix(static_cast<size_t>(n));
  }
}

void pread_all(int fd, std::span<std::byte> buffer, uint64_t offset, const std::string& name) {
  while (!buffer.empty()) {
    const ssize_t n = ::pread(fd, buffer.data(), buffer.size(), static_cast<off_t>(offset));
    if (n < 0) {
      if (errno == EINTR) continue;
      fail_errno("{}: read at {}", name, offset);
    }
    if (n == 0) fail(EIO, "{}: ends at byte {}, where more was expected", name, offset);
    buffer = buffer.subspan(static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
}

void pwrite_all(int fd, std::span<const std::byte> buffer, uint64_t offset, const std::string& name) {
  while (!buffer.empty()) {
    const ssize_t n = ::pwrite(fd, buffer.data(), buffer.size(), static_cast<off_t>(offset));
    if (n < 0) {
      if (errno == EINTR) continue;
      fail_errno("{}: write at {}", name, offset);
    }
    buffer = buffer.subspan(static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
}

std::string read_link(int dirfd, const std::string& path) {
  std::string target(256, '\0');
  for (;;) {
    const ssize_t n = ::readlinkat(dirfd, path.c_str(), target.data(), target.size());
    if (n < 0) fail_errno("{}: readlink", path);
    if (static_cast<size_t>(n) < target.size()) {
      target.resize(static_cast<size_t>(n));
      return target;
    }
    target.resize(target.size() * 2);
  }
}

}  // namespace ckpt
