#include "tools/bench/floors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cstring>
#include <thread>
#include <vector>

#include "engine/base/error.h"
#include "engine/base/fd.h"
#include "engine/image/digest.h"
#include "tools/bench/bench.h"
#include "tools/bench/fill_unique.h"

namespace ckpt::bench {

namespace {

class Memory {
 public:
  explicit Memory(uint64_t size) : size_(size) {
    void* at = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) fail_errno("mapping {} bytes", size);
    ::madvise(at, size, MADV_NOHUGEPAGE);
    at_ = static_cast<std::byte*>(at);
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() { ::munmap(at_, size_); }
  std::span<std::byte> bytes() const { return {at_, size_}; }

 private:
  std::byte* at_ = nullptr;
  uint64_t size_;
};

/// Reads and hashes one part, block by block into a small buffer that stays in the cache.
void read_and_hash_part(pid_t pid, uint64_t address, uint64_t size) {
  std::vector<std::byte> buffer(kBlockSize);
  std::vector<Digest> digests(kPagesPerBlock);
  for (uint64_t at = 0; at < size; at += kBlockSize) {
    const iovec local{buffer.data(), buffer.size()};
    const iovec remote{reinterpret_cast<void*>(address + at), buffer.size()};
    if (::process_vm_readv(pid, &local, 1, &remote, 1, 0) != static_cast<ssize_t>(kBlockSize)) return;
    digest_pages(buffer, digests);
  }
}

}  // namespace

double write_and_sync(const std::string& file, uint64_t size) {
  const Memory block(16 * kMiB);
  fill_unique(block.bytes(), 1);
  const UniqueFd fd = open_at(AT_FDCWD, file, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  return seconds([&] {
    for (uint64_t at = 0; at < size; at += block.bytes().size()) {
      pwrite_all(fd.get(), block.bytes().first(std::min<uint64_t>(block.bytes().size(), size - at)), at,
                 file);
    }
    if (::fsync(fd.get()) != 0) fail_errno("{}", file);
  });
}

double read_and_hash(pid_t pid, uint64_t address, uint64_t size) {
  return seconds([&] {
    const uint64_t half = size / 2 / kBlockSize * kBlockSize;
    std::thread other(read_and_hash_part, pid, address + half, size - half);
    read_and_hash_part(pid, address, half);
    other.join();
  });
}

double touch_fresh(uint64_t size) {
  const Memory memory(size);
  return seconds([&] {
    for (uint64_t at = 0; at < size; at += kPageSize) memory.bytes()[at] = std::byte{1};
  });
}

double read_file_through(const std::string& file) {
  const UniqueFd fd = open_at(AT_FDCWD, file, O_RDONLY);
  std::vector<char> buffer(kMiB);
  return seconds([&] {
    ssize_t n = 0;
    while ((n = ::read(fd.get(), buffer.data(), buffer.size())) > 0) {
    }
    if (n < 0) fail_errno("{}", file);
  });
}

}  // namespace ckpt::bench
