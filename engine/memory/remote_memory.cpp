#include "engine/memory/remote_memory.h"

#include <fcntl.h>
#include <sys/uio.h>

#include "engine/base/error.h"

namespace ckpt {

RemoteMemory::RemoteMemory(pid_t pid, bool only_mem) : pid_(pid), only_mem_(only_mem) {
  mem_ = open_at(AT_FDCWD, fmt::format("/proc/{}/mem", pid), O_RDWR);
}

void RemoteMemory::read(uint64_t from, std::span<std::byte> to) const {
  const int err = try_read(from, to);
  if (err == ESRCH) fail(ESRCH, "{}: the process has ended", pid_);
  if (err != 0) fail(err, "{}: reading memory at {:#x}: {}", pid_, from, errno_text(err));
}

int RemoteMemory::try_read(uint64_t from, std::span<std::byte> to) const noexcept {
  while (!to.empty()) {
    ssize_t got = -1;
    if (!only_mem_) {
      const iovec local{to.data(), to.size()};
      const iovec remote{reinterpret_cast<void*>(from), to.size()};
      got = ::process_vm_readv(pid_, &local, 1, &remote, 1, 0);
    }
    if (got <= 0) got = ::pread(mem_.get(), to.data(), to.size(), static_cast<off_t>(from));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno;
    // The file reads as empty once the address space is gone (fs/proc/base.c, mem_rw).
    if (got == 0) return ESRCH;
    from += static_cast<uint64_t>(got);
    to = to.subspan(static_cast<size_t>(got));
  }
  return 0;
}

void RemoteMemory::write(uint64_t to, std::span<const std::byte> from) const {
  while (!from.empty()) {
    const ssize_t put = ::pwrite(mem_.get(), from.data(), from.size(), static_cast<off_t>(to));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) fail_errno("{}: writing memory at {:#x}", pid_, to);
    if (put == 0) fail(ESRCH, "{}: the process has ended", pid_);
    to += static_cast<uint64_t>(put);
    from = from.subspan(static_cast<size_t>(put));
  }
}

}  // namespace ckpt
