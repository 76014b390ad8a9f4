// Ill use of the ioctls of /dev/ckpt, and of the snapshots and stops that it gives: random and mutated arguments, on processes
// that map, unmap, write, fork, exec, make threads and end meanwhile. Checked is that what is a success was a valid request;
// what the kernel thinks of it stands in its log. Runs in the guest (kernel_engine.sh).
//
//   snapshot_stress CALLS        # of each of three threads
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <random>
#include <thread>
#include <vector>

#include "kmod/ckpt_device.h"

namespace {

constexpr uint64_t kPage = 4096, kTop = 1ull << 47;
constexpr int kTargets = 4;

std::array<std::atomic<pid_t>, kTargets> targets{};
std::atomic<bool> done{false};
std::atomic<long> snapshots{0}, found{0}, bytes{0}, facts{0}, stops{0}, states{0};
constexpr uint64_t kArena = 1ull << 44;   // where the targets' memory is
constexpr uint64_t kArenaPages = 2048;

/// A process that never rests.
[[noreturn]] void live(const char* self, unsigned seed) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  std::mt19937 random(seed);
  for (unsigned i = random() % 3; i > 0; --i) std::thread([] { for (;;) usleep(500); }).detach();
  char* memory = reinterpret_cast<char*>(kArena);
  for (;;) {
    char* at = memory + random() % (kArenaPages - 64) * kPage;
    const size_t size = (1 + random() % 64) * kPage;
    switch (random() % 12) {
      case 0: munmap(at, size); break;
      case 1: madvise(at, size, MADV_DONTNEED); break;
      case 2: madvise(memory, kArenaPages * kPage, random() % 2 ? MADV_HUGEPAGE : MADV_NOHUGEPAGE); break;
      case 3: mprotect(at, size, random() % 2 ? PROT_READ : PROT_READ | PROT_WRITE); break;
      case 4: madvise(at, size, random() % 2 ? MADV_DONTFORK : MADV_DOFORK); break;
      case 5:
        if (const pid_t child = fork(); child == 0) _exit(0); else waitpid(child, nullptr, 0);
        break;
      case 6:
        if (random() % 20 == 0) execl(self, self, "live", nullptr);
        if (random() % 20 == 0) _exit(0);
        break;
      default: {
        const int prot = PROT_READ | PROT_WRITE;
        if (mmap(at, size, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED) memset(at, 1 + static_cast<int>(random() % 100), size);
      }
    }
  }
}

void keep_targets(const char* self) {
  unsigned seed = 0;
  std::mt19937 random(99);
  while (!done) {
    for (auto& target : targets) {
      const pid_t pid = target;
      if (pid > 0 && random() % 8 == 0) kill(pid, SIGKILL);
      if (pid > 0 && waitpid(pid, nullptr, WNOHANG) == 0) continue;
      const pid_t child = fork();
      if (child == 0) live(self, ++seed);
      ++seed;
      target = child;
    }
    usleep(3000);
  }
  for (auto& target : targets) {
    kill(target, SIGKILL);
    waitpid(target, nullptr, 0);
  }
}

class Misuser {
 public:
  explicit Misuser(unsigned seed) : random_(seed), buffer_(64 * kPage), device_(open("/dev/ckpt", O_RDONLY | O_CLOEXEC)) {
    guarded_ = static_cast<char*>(mmap(nullptr, 2 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    mprotect(guarded_ + kPage, kPage, PROT_NONE);
  }
  ~Misuser() { close(device_); }
  Misuser(const Misuser&) = delete;
  Misuser& operator=(const Misuser&) = delete;

  void run(long calls) {
    int fd = -1;
    for (long i = 0; i < calls; ++i) {
      if (i % 40 == 0) {
        if (fd >= 0) close(fd);
        fd = take();
      }
      if (random_() % 150 == 0) stop();
      switch (random_() % 5) {
        case 0:
        case 1: ask_runs(fd); break;
        case 2: read_pages(fd); break;
        case 3: ask_facts(); break;
        default: {
          const int result = ioctl(random_() % 2 ? device_ : fd, random_command(), address());
          if (result > 2) close(result);
        }
      }
    }
    if (fd >= 0) close(fd);
  }

 private:
  void* address() {
    switch (random_() % 4) {
      case 0: return reinterpret_cast<void*>(random_() | 1ull << 62);
      case 1: return guarded_ + kPage - random_() % 48;
      case 2: return nullptr;
      default: return buffer_.data();
    }
  }
  unsigned long random_command() {
    constexpr unsigned long kAll[] = {CKPT_IOC_VERSION, CKPT_IOC_SNAPSHOT, CKPT_SNAPSHOT_RUNS, CKPT_IOC_THREAD, CKPT_IOC_PROCESS,
                                      CKPT_STOP_WAIT, CKPT_STOP_THREADS, CKPT_STOP_STATE, CKPT_STOP_PENDING};
    // Of another size, direction or number too.
    return kAll[random_() % std::size(kAll)] ^ (random_() % 2 ? 0 : 1ul << random_() % 32);
  }
  int take() {
    ckpt_snapshot request = {};
    request.pid = random_() % 8 ? targets[random_() % kTargets].load() : static_cast<int>(random_());
    if (random_() % 16 == 0) request.reserved = static_cast<unsigned>(random_());
    const int fd = ioctl(device_, CKPT_IOC_SNAPSHOT, &request);
    if (fd < 0) return -1;
    if (request.reserved != 0) fail("a reserved field is not looked at");
    ++snapshots;
    return fd;
  }
  uint64_t place() {
    switch (random_() % 6) {
      case 0: return random_();
      case 1: return kTop - random_() % 8 * kPage;
      case 2: return 0;
      case 3: return kArena + random_() % (kArenaPages * kPage);
      default: return kArena + random_() % kArenaPages * kPage;
    }
  }
  void ask_runs(int fd) {
    ckpt_run* runs = reinterpret_cast<ckpt_run*>(buffer_.data());
    ckpt_runs request = {};
    request.start = place();
    request.end = random_() % 2 ? request.start + random_() % kArenaPages * kPage : place();
    request.runs = random_() % 8 ? reinterpret_cast<uint64_t>(runs) : reinterpret_cast<uint64_t>(address());
    const auto capacity = static_cast<unsigned>(1 + random_() % 4096);
    request.capacity = random_() % 8 ? capacity : static_cast<unsigned>(random_());
    if (random_() % 16 == 0) request.count = static_cast<unsigned>(random_());
    if (random_() % 16 == 0) request.next = random_();
    const ckpt_runs asked = request;
    if (ioctl(fd, CKPT_SNAPSHOT_RUNS, &request) != 0) return;
    if (asked.count || asked.next || asked.start % kPage || asked.end % kPage || asked.start > asked.end || asked.end > kTop) {
      fail("nonsense is accepted");
    }
    if (request.runs != reinterpret_cast<uint64_t>(runs)) return;
    uint64_t at = asked.start;
    for (unsigned i = 0; i < request.count; ++i) {
      if (runs[i].start < at || runs[i].end <= runs[i].start || runs[i].end > request.next) fail("the runs are not in order");
      at = runs[i].end;
    }
    found += request.count;
  }
  void ask_facts() {
    const pid_t pid = random_() % 8 ? targets[random_() % kTargets].load() : static_cast<int>(random_());
    const bool spoilt = random_() % 8 == 0;
    if (random_() % 2) {
      ckpt_thread thread = {};
      thread.tid = pid;
      if (spoilt) reinterpret_cast<char*>(&thread)[4 + random_() % (sizeof thread - 4)] = 1;
      if (ioctl(device_, CKPT_IOC_THREAD, &thread) == 0 && spoilt) fail("nonsense is answered");
      return;
    }
    ckpt_process process = {};
    process.pid = pid;
    process.capacity = static_cast<unsigned>(random_() % 8 ? random_() % 16 : random_());
    process.timers = reinterpret_cast<uint64_t>(random_() % 8 ? buffer_.data() : address());
    constexpr size_t kFirst = offsetof(ckpt_process, intervals);
    if (spoilt) reinterpret_cast<char*>(&process)[kFirst + random_() % (sizeof process - kFirst)] = 1;
    if (ioctl(device_, CKPT_IOC_PROCESS, &process) == 0) {
      if (spoilt) fail("nonsense is answered");
      ++facts;
    }
  }
  /// Also while another has it, and with whoever it is let go before all stand.
  void stop() {
    ckpt_stop request = {};
    request.pid = random_() % 8 ? targets[random_() % kTargets].load() : static_cast<int>(random_());
    if (random_() % 16 == 0) request.reserved = static_cast<unsigned>(random_());
    const int fd = ioctl(device_, CKPT_IOC_STOP, &request);
    if (fd < 0) return;
    if (request.reserved != 0) fail("a reserved field is not looked at");
    const ckpt_stop_wait wait = {static_cast<unsigned>(random_() % 20), random_() % 16 == 0 ? 1u : 0u};
    if (random_() % 8 && ioctl(fd, CKPT_STOP_WAIT, &wait) == 0) {
      if (wait.reserved != 0) fail("a reserved field is not looked at");
      ++stops;
    }
    for (unsigned i = random_() % 6; i > 0; --i) ask_stop(fd);
    close(fd);
  }
  void ask_stop(int fd) {
    int32_t tids[8] = {};
    ckpt_stop_threads threads = {reinterpret_cast<uint64_t>(random_() % 8 ? tids : address()), 8, 0};
    if (random_() % 8 == 0) threads.capacity = static_cast<unsigned>(random_());
    if (threads.capacity > 8 && threads.tids == reinterpret_cast<uint64_t>(tids)) threads.tids = reinterpret_cast<uint64_t>(address());
    ioctl(fd, CKPT_STOP_THREADS, &threads);
    ckpt_thread_state state = {};
    state.tid = random_() % 8 ? tids[random_() % 3] : static_cast<int>(random_());
    state.xsave = reinterpret_cast<uint64_t>(random_() % 8 ? buffer_.data() : address());
    state.xsave_size = static_cast<unsigned>(random_() % 2 ? buffer_.size() : random_() % buffer_.size());
    const bool told = ioctl(fd, CKPT_STOP_STATE, &state) == 0;
    states += told;
    ckpt_pending pending = {random_() % 2 ? tids[0] : 0, static_cast<unsigned>(random_() % 8), reinterpret_cast<uint64_t>(address()), 0, 0};
    if (random_() % 8 == 0) pending.capacity = static_cast<unsigned>(random_());
    if (random_() % 8 == 0) pending.reserved = 1;
    if (ioctl(fd, CKPT_STOP_PENDING, &pending) == 0 && pending.reserved) fail("a reserved field is not looked at");
    // Where it stands, or nonsense that is refused.
    ckpt_go_on go_on = {state.tid, 0, state.registers[10], state.registers[16], state.registers[15]};
    if (random_() % 4 == 0) go_on.rip |= 1ull << (47 + random_() % 17);
    if (random_() % 4 == 0) go_on.reserved = 1;
    if (!told && go_on.rip == 0) return;
    const bool nonsense = go_on.reserved != 0 || go_on.rip >= kTop;
    if (ioctl(fd, CKPT_STOP_GO_ON, &go_on) == 0 && nonsense) fail("a thread is sent away");
  }
  void read_pages(int fd) {
    const uint64_t at = place();
    const size_t size = random_() % 8 ? random_() % 64 * kPage : random_() % (64 * kPage);
    const bool good = random_() % 8 != 0;
    const ssize_t n = good ? pread(fd, buffer_.data(), size, static_cast<off_t>(at))
                           : pread(fd, guarded_ + kPage - random_() % 48, random_(), static_cast<off_t>(at));
    if (n <= 0 || !good) return;
    if (at % kPage || size % kPage || at + size > kTop || n % static_cast<ssize_t>(kPage)) fail("nonsense is read");
    bytes += n;
  }
  [[noreturn]] void fail(const char* what) {
    fprintf(stderr, "%s\n", what);
    exit(1);
  }

  std::mt19937_64 random_;
  std::vector<char> buffer_;
  char* guarded_ = nullptr;
  const int device_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  mmap(reinterpret_cast<void*>(kArena), kArenaPages * kPage, PROT_READ | PROT_WRITE,
       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  if (strcmp(argv[1], "live") == 0) live(argv[0], static_cast<unsigned>(getpid()));
  const long calls = atol(argv[1]);
  std::thread keeper(keep_targets, argv[0]);
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < 3; ++i) {
    threads.emplace_back([i, calls] { Misuser(i).run(calls); });
  }
  for (std::thread& thread : threads) thread.join();
  done = true;
  keeper.join();
  printf("%ld snapshots, %ld calls, %ld runs, %ld bytes, %ld processes told of, %ld stopped, %ld states\n", snapshots.load(),
         3 * calls, found.load(), bytes.load(), facts.load(), stops.load(), states.load());
  return snapshots > 0 && found > 0 && bytes > 0 && facts > 0 && stops > 0 && states > 0 ? 0 : 1;
}
