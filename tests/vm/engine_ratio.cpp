// How long a process is stopped by the kernel engine and by ptrace alone, and how long the module's copy-on-write snapshot
// takes beside reading all of the memory, as ratios: the guest has no times of its own. Checks that each engine was the one
// that it was to be, and that all could be read.
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#include "kmod/ckpt_device.h"
#include "mount.h"

namespace {

using ckpt_test::Mount;
using ckpt_test::Outcome;

/// Milliseconds of the stop, of the sentence in ctl; the least of several.
double stopped_ms(const Mount& mount, pid_t pid) {
  double least = 1e9;
  for (int i = 0; i < 3; ++i) {
    const Outcome outcome = mount.command(std::to_string(pid));
    const size_t at = outcome.sentence.find("stopped ");
    if (outcome.error != 0 || at == std::string::npos) {
      fprintf(stderr, "%s\n", outcome.sentence.c_str());
      exit(1);
    }
    least = std::min(least, strtod(outcome.sentence.c_str() + at + 8, nullptr));
  }
  return least;
}

bool was_by(const Mount& mount, pid_t pid, const std::string& engine) {
  const std::string manifest = ckpt_test::read_file(mount.path("images/" + std::to_string(pid) + "/manifest"));
  if (manifest.find("\"engine\": \"" + engine + "\"") != std::string::npos) return true;
  fprintf(stderr, "the image is not by engine %s\n", engine.c_str());
  return false;
}

double ms_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
}

/// Milliseconds of a snapshot, the least of several; and of reading the memory once.
bool snapshot_and_copy(pid_t pid, const char* memory, size_t size, double& snapshot, double& copy) {
  const int device = open("/dev/ckpt", O_RDONLY | O_CLOEXEC);
  snapshot = 1e9;
  for (int i = 0; i < 3; ++i) {
    ckpt_snapshot request = {pid, 0};
    const auto begin = std::chrono::steady_clock::now();
    const int fd = ioctl(device, CKPT_IOC_SNAPSHOT, &request);
    snapshot = std::min(snapshot, ms_since(begin));
    if (fd < 0) return false;
    close(fd);
  }
  close(device);
  const int from = open(("/proc/" + std::to_string(pid) + "/mem").c_str(), O_RDONLY | O_CLOEXEC);
  std::vector<char> to(size, 1);
  const auto begin = std::chrono::steady_clock::now();
  size_t done = 0;
  for (ssize_t n = 1; done < size && n > 0; done += static_cast<size_t>(std::max<ssize_t>(n, 0))) {
    n = pread(from, to.data() + done, size - done, static_cast<off_t>(reinterpret_cast<uintptr_t>(memory) + done));
  }
  copy = ms_since(begin);
  close(from);
  return done == size;
}

}  // namespace

int main() {
  for (const size_t mib : {64, 256}) {
    const size_t size = mib << 20;
    int ready[2];
    if (pipe(ready) != 0) return 2;
    // Made here, so that we know where the child has it.
    char* const memory = static_cast<char*>(mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    const pid_t pid = fork();
    if (pid == 0) {
      setsid();
      madvise(memory, size, MADV_NOHUGEPAGE);
      for (size_t at = 0; at < size; at += 4096) memory[at] = static_cast<char>(1 + at / 4096 % 255);
      close_range(0, ~0u, 0);
      for (;;) pause();
    }
    close(ready[1]);
    char end;
    if (read(ready[0], &end, 1) != 0) return 2;
    close(ready[0]);
    double stops[2];
    int which = 0;
    bool good = true;
    for (const char* engine : {"ptrace", "kernel"}) {
      const Mount mount(std::string("engine=") + engine);
      stops[which++] = stopped_ms(mount, pid);
      good = good && was_by(mount, pid, engine);
    }
    double snapshot = 0, copy = 0;
    good = good && snapshot_and_copy(pid, memory, size, snapshot, copy);
    munmap(memory, size);
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    if (!good) return 1;
    printf("%zu MiB: stopped %.1f ms by ptrace, %.1f ms by the kernel engine: %.2f of it\n", mib, stops[0], stops[1],
           stops[1] / stops[0]);
    printf("%zu MiB: a snapshot %.1f ms, a copy of the memory %.1f ms: %.2f of it\n", mib, snapshot, copy, snapshot / copy);
  }
  return 0;
}
