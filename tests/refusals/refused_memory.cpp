// Mappings.
#include "refused.h"

#include <linux/aio_abi.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/shm.h>

namespace {

constexpr size_t kSize = 2 << 20;

Words mapping(const void* address, const std::string& what) {
  char start[40];
  snprintf(start, sizeof start, "mapping %lx-", reinterpret_cast<unsigned long>(address));
  return {of_process(start), what};
}

char* anonymous() {
  return must_map(mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), "mmap");
}

Words aio() {
  aio_context_t context = 0;
  if (syscall(SYS_io_setup, 1, &context) != 0) return {};
  return {of_process(""), "asynchronous I/O (io_setup)"};
}

Words sealed() {
  char* const memory = anonymous();
  if (syscall(462, memory, kSize, 0) != 0) return {};  // mseal, Linux 6.10
  return mapping(memory, "a sealed mapping (mseal)");
}

Words secret_memory() {
  const int fd = static_cast<int>(syscall(447, O_CLOEXEC));  // memfd_secret
  if (fd < 0 || ftruncate(fd, kSize) != 0) return {};
  void* const memory = mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  return memory == MAP_FAILED ? Words{} : mapping(memory, "secret memory (memfd_secret)");
}

Words huge_pages() {
  void* const memory = mmap(nullptr, kSize, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE, -1, 0);
  return memory == MAP_FAILED ? Words{} : mapping(memory, "huge pages of hugetlbfs");
}

Words device_memory() {
  const int fd = open("/dev/mem", O_RDONLY | O_CLOEXEC);
  void* const memory = mmap(nullptr, 4096, PROT_READ, MAP_SHARED, fd, 0xf0000);  // the BIOS
  close(fd);
  return memory == MAP_FAILED ? Words{} : mapping(memory, "memory of a device");
}

Words watched_memory() {
  const int fd = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
  if (fd < 0) return {};
  uffdio_api api{};
  api.api = UFFD_API;
  must(ioctl(fd, UFFDIO_API, &api), "UFFDIO_API");
  char* const memory = anonymous();
  uffdio_register watched{};
  watched.range = {reinterpret_cast<uint64_t>(memory), kSize};
  watched.mode = UFFDIO_REGISTER_MODE_MISSING;
  must(ioctl(fd, UFFDIO_REGISTER, &watched), "UFFDIO_REGISTER");
  return mapping(memory, "registered with a userfaultfd of the process");
}

Words sysv_outside() {
  const int segment = must(shmget(IPC_PRIVATE, kSize, IPC_CREAT | 0600), "shmget");
  must_map(shmat(segment, nullptr, 0), "shmat");
  outside();
  must(shmctl(segment, IPC_RMID, nullptr), "IPC_RMID");
  return {of_process(""), "System V shared memory segment " + std::to_string(segment), "outside the process tree"};
}

}  // namespace

const std::vector<RefusedState>& refused_memory() {
  static const std::vector<RefusedState> states = {
      {"aio", aio},
      {"sealed", sealed},
      {"secret_memory", secret_memory},
      {"huge_pages", huge_pages},
      {"device_memory", device_memory},
      {"watched_memory", watched_memory},
      {"sysv_outside", sysv_outside},
  };
  return states;
}
