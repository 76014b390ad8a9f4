// Ownership of a file descriptor, and the few whole-buffer file operations that everybody needs.
#pragma once

#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace ckpt {

/// Owns a descriptor and closes it. Movable, not copyable. -1 is "none".
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) reset(std::exchange(other.fd_, -1));
    return *this;
  }
  ~UniqueFd() { reset(); }

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }
  void reset(int fd = -1) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = fd;
  }

 private:
  int fd_ = -1;
};

/// Opens relative to `dirfd` (AT_FDCWD for none), always O_CLOEXEC. Throws Error naming the path.
UniqueFd open_at(int dirfd, const std::string& path, int flags, unsigned mode = 0);

/// The whole content of a file of unknown size (/proc files included). Throws Error naming the path; EFBIG
/// above `limit` bytes.
std::string read_file(int dirfd, const std::string& path, size_t limit = 64 << 20);
std::string read_file(const std::string& path, size_t limit = 64 << 20);

/// As read_file, from the present position of an open descriptor; `name` is for messages.
std::string read_all(int fd, const std::string& name, size_t limit = 64 << 20);

/// Writes everything or throws; retries EINTR and short writes.
void write_all(int fd, std::string_view data, const std::string& name);

/// Reads or writes exactly `buffer.size()` bytes at `offset` or throws; EIO at an early end of file.
void pread_all(int fd, std::span<std::byte> buffer, uint64_t offset, const std::string& name);
void pwrite_all(int fd, std::span<const std::byte> buffer, uint64_t offset, const std::string& name);

/// Target of a symbolic link, whatever its length.
std::string read_link(int dirfd, const std::string& path);

}  // namespace ckpt
