#include "engine/memory/remote_memory.h"

#include <fcntl.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>

#include "engine/base/error.h"
#include "engine/image/digest.h"
#include "engine/memory/kernel_abi.h"

namespace ckpt {

RemoteMemory::RemoteMemory(pid_t pid, bool only_mem) : pid_(pid), only_mem_(only_mem) {
  mem_ = open_at(AT_FDCWD, fmt::format("/proc/{}/mem", pid), O_RDWR);
  if (!only_mem) pagemap_ = open_at(AT_FDCWD, fmt::format("/proc/{}/pagemap", pid), O_RDONLY);
}

// process_vm_readv(2) pins pages, before which the kernel makes the process a copy of its own of what fork(2) has left
// in common (gup_must_unshare() in include/linux/mm.h). The file mem does not.
RemoteMemory::Run RemoteMemory::next_run(uint64_t from, size_t size) const noexcept {
  constexpr size_t kFew = 4 * kPageSize;  // not worth a look
  if (only_mem_ || size <= kFew) return {size, false};
  std::array<uint64_t, 512> entries;
  const uint64_t first = from / kPageSize, last = (from + size + kPageSize - 1) / kPageSize;
  const size_t wanted = std::min<size_t>(last - first, entries.size()) * sizeof(uint64_t);
  const ssize_t got = ::pread(pagemap_.get(), entries.data(), wanted, static_cast<off_t>(first * sizeof(uint64_t)));
  if (got < static_cast<ssize_t>(sizeof(uint64_t))) return {size, false};
  const auto in_common = [](uint64_t entry) {
    return (entry & abi::kPmPresent) != 0 && (entry & (abi::kPmFile | abi::kPmExclusive)) == 0;
  };
  const size_t count = static_cast<size_t>(got) / sizeof(uint64_t);
  const bool common = in_common(entries[0]);
  size_t pages = 1;
  while (pages < count && in_common(entries[pages]) == common) ++pages;
  return {std::min<size_t>((first + pages) * kPageSize - from, size), !common};
}

void RemoteMemory::read(uint64_t from, std::span<std::byte> to) const {
  const int err = try_read(from, to);
  if (err == ESRCH) fail(ESRCH, "{}: the process has ended", pid_);
  if (err != 0) fail(err, "{}: reading memory at {:#x}: {}", pid_, from, errno_text(err));
}

int RemoteMemory::try_read(uint64_t from, std::span<std::byte> to) const noexcept {
  while (!to.empty()) {
    ssize_t got = -1;
    const Run run = next_run(from, to.size());
    if (run.may_be_pinned) {
      const iovec local{to.data(), run.size};
      const iovec remote{reinterpret_cast<void*>(from), run.size};
      got = ::process_vm_readv(pid_, &local, 1, &remote, 1, 0);
    }
    if (got <= 0) got = ::pread(mem_.get(), to.data(), run.size, static_cast<off_t>(from));
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
