// Ill use of /dev/ckpt and of the two signals, beside each other: a server that opens and closes the device, takes requests
// and answers them, forgets them or answers nonsense; random calls from other threads; and processes that get the signals
// while they run, fork, exec, and end. Nothing is checked here but that nobody hangs and nobody is ended by a signal that
// has not been answered; what the kernel thinks of it stands in its log. Runs in the guest (signals.sh).
//
//   device_stress ROUNDS
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <random>
#include <thread>
#include <vector>

#include "kmod/ckpt_device.h"
#include "libckpt/ckpt.h"

namespace {

std::atomic<int> device{-1};
std::atomic<bool> done{false};
std::atomic<long> calls{0}, requests{0};

int open_device() { return open("/dev/ckpt", O_RDWR | O_NONBLOCK | O_CLOEXEC); }

/// Opens, serves some requests in some way, and closes with whatever is left.
void serve(unsigned seed) {
  std::mt19937 random(seed);
  while (!done) {
    const int fd = open_device();
    if (fd < 0) continue;
    device = fd;
    for (unsigned left = random() % 20; left > 0 && !done; --left) {
      pollfd ready = {fd, POLLIN, 0};
      ckpt_request request = {};
      if (poll(&ready, 1, 20) != 1 || read(fd, &request, sizeof request) != sizeof request) continue;
      ++requests;
      if (random() % 4 == 0) continue;  // forgotten
      // Never a success of SIGCKPTEXIT: it would end the process rightly.
      ckpt_answer answer = {request.id, request.flags & CKPT_REQUEST_EXIT ? EIO : 0, 0};
      if (write(fd, &answer, sizeof answer) != sizeof answer || write(fd, &answer, sizeof answer) != -1) {
        fprintf(stderr, "an answer is taken %s\n", errno == ENOENT ? "twice" : strerror(errno));
        exit(1);
      }
    }
    device = -1;
    close(fd);
  }
}

/// Any call with any argument, also on a descriptor that is being closed.
void misuse(unsigned seed) {
  std::mt19937_64 random(seed);
  std::vector<char> buffer(65536);
  void* guarded = mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  mprotect(static_cast<char*>(guarded) + 4096, 4096, PROT_NONE);
  const auto address = [&]() -> void* {
    switch (random() % 4) {
      case 0: return reinterpret_cast<void*>(random());
      case 1: return static_cast<char*>(guarded) + 4096 - random() % 40;
      case 2: return nullptr;
      default: return buffer.data() + random() % 1000;
    }
  };
  while (!done) {
    const int fd = device;
    if (fd < 0) continue;
    ++calls;
    switch (random() % 6) {
      case 0: {
        // Too small always: a request that is taken here would be nobody's.
        if (read(fd, address(), random() % sizeof(ckpt_request)) >= 0) exit(1);
        break;
      }
      case 1: {
        ckpt_answer answer = {random(), static_cast<int>(random()), static_cast<unsigned>(random())};
        if (random() % 2) answer = {random() | 1ull << 60, static_cast<int>(random() % 100), 0};
        if (write(fd, &answer, random() % 2 ? sizeof answer : random() % 64) >= 0) exit(1);
        break;
      }
      case 2: static_cast<void>(!write(fd, address(), random() % 2 ? ~size_t{0} >> 1 : random() % 14)); break;
      case 3: ioctl(fd, random() % 2 ? CKPT_IOC_VERSION : random(), address()); break;
      case 4: lseek(fd, static_cast<off_t>(random()), static_cast<int>(random() % 5)); break;
      default: {
        pollfd ready = {fd, static_cast<short>(random()), 0};
        poll(&ready, 1, 0);
      }
    }
  }
}

/// Where the threads of a process are.
void show_threads(pid_t pid) {
  char command[200];
  snprintf(command, sizeof command,
           "cd /proc/%d/task && for t in *; do echo \"$t $(cat $t/comm $t/wchan) $(grep State $t/status)\"; done; "
           "grep -E 'Pnd|Blk|Ign' /proc/%d/status", pid, pid);
  static_cast<void>(!system(command));
}

/// One life: threads, forks, an exec, all the time under fire.
[[noreturn]] void live(const char* self, unsigned seed) {
  // The device: who waits for an answer must not hold it open. Until here the signals are blocked.
  close_range(3, ~0u, 0);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  std::mt19937 random(seed);
  for (int i = 0; i < 7; ++i) {
    std::thread([] {
      for (;;) usleep(200);
    }).detach();
  }
  for (unsigned i = random() % 10; i > 0; --i) {
    const pid_t child = fork();
    if (child == 0) _exit(0);
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
    if (status != 0) _exit(1);
  }
  if (random() % 2) execl(self, self, "nap", nullptr);
  usleep(random() % 20000);
  _exit(0);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  if (strcmp(argv[1], "nap") == 0) {
    usleep(5000);
    return 0;
  }
  const int rounds = atoi(argv[1]);
  std::vector<std::thread> threads;
  threads.emplace_back(serve, 1);
  threads.emplace_back(misuse, 2);
  threads.emplace_back(misuse, 3);
  sigset_t ours;
  sigemptyset(&ours);
  sigaddset(&ours, SIGCKPT);
  sigaddset(&ours, SIGCKPTEXIT);
  sigprocmask(SIG_BLOCK, &ours, nullptr);
  std::mt19937 random(4);
  long sent = 0;
  for (int round = 0; round < rounds; ++round) {
    const pid_t child = fork();
    if (child == 0) live(argv[0], static_cast<unsigned>(round));
    int status = 0;
    // Real-time signals queue, and each takes as long as its answer: not more than are dealt with.
    int left = 10;
    for (int turn = 0; waitpid(child, &status, WNOHANG) == 0; ++turn) {
      if (left > 0 && kill(child, random() % 3 ? SIGCKPT : SIGCKPTEXIT) == 0) --left, ++sent;
      usleep(random() % 3000);
      if (turn == 20000) {
        fprintf(stderr, "round %d: a process hangs\n", round);
        show_threads(child);
        exit(1);
      }
    }
    if (status != 0) {
      fprintf(stderr, "round %d: a process has ended with status %#x\n", round, static_cast<unsigned>(status));
      exit(1);
    }
  }
  done = true;
  for (std::thread& thread : threads) thread.join();
  printf("%d processes, %ld signals, %ld requests, %ld other calls\n", rounds, sent, requests.load(), calls.load());
  return requests > 0 && calls > 0 ? 0 : 1;
}
