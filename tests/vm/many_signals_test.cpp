// Hundreds of signals at random times to one program of many threads, with calls of the device beside them: nobody hangs, no
// thread is lost, and every image is whole. Runs in the guest (many_signals.sh).
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <filesystem>
#include <random>
#include <thread>

#include "kmod/ckpt_device.h"
#include "libckpt/ckpt.h"
#include "mount.h"

namespace ckpt_test {
namespace {

constexpr int kThreads = 8;
/// As many as CKPT_MANY_SIGNALS says.
const int kSignals = [] {
  const char* number = getenv("CKPT_MANY_SIGNALS");
  return number != nullptr ? atoi(number) : 500;
}();
using Counts = std::array<std::atomic<uint64_t>, kThreads>;

/// Each thread counts in its own way: sleeping, computing, in system calls.
[[noreturn]] void count(std::atomic<uint64_t>& counter, int which) {
  for (;; ++counter) {
    if (which % 3 == 0) usleep(500);
    if (which % 3 == 1) static_cast<void>(getppid());
    if (which % 3 == 2) sched_yield();
  }
}

/// Snapshots and facts of the process, in between its checkpoints.
void use_device(pid_t pid, const std::atomic<bool>& done, std::atomic<int>& snapshots) {
  const int device = open("/dev/ckpt", O_RDONLY | O_CLOEXEC);
  while (!done) {
    ckpt_snapshot request = {pid, 0};
    const int snapshot = ioctl(device, CKPT_IOC_SNAPSHOT, &request);
    if (snapshot >= 0 && close(snapshot) == 0) ++snapshots;
    ckpt_thread thread = {};
    thread.tid = pid;
    ioctl(device, CKPT_IOC_THREAD, &thread);
    usleep(20000);
  }
  close(device);
}

TEST(ManySignals, LeaveEveryThreadAndEveryImageWhole) {
  const Mount mount;
  ASSERT_TRUE(mount.mounted());
  void* shared = mmap(nullptr, sizeof(Counts), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  auto& counts = *new (shared) Counts();
  const pid_t pid = fork();
  if (pid == 0) {
    setsid();
    close_range(0, ~0u, 0);
    for (int i = 1; i < kThreads; ++i) std::thread([&counts, i] { count(counts[static_cast<size_t>(i)], i); }).detach();
    count(counts[0], 0);
  }
  const auto all_count = [&] {
    std::array<uint64_t, kThreads> before;
    for (size_t i = 0; i < kThreads; ++i) before[i] = counts[i];
    return wait_until([&] {
      for (size_t i = 0; i < kThreads; ++i) {
        if (counts[i] == before[i]) return false;
      }
      return true;
    });
  };
  ASSERT_TRUE(all_count());
  std::atomic<bool> done{false};
  std::atomic<int> snapshots{0};
  std::thread user([&] { use_device(pid, done, snapshots); });
  std::mt19937 random(std::random_device{}());
  for (int i = 0; i < kSignals; ++i) {
    kill(pid, SIGCKPT);
    usleep(static_cast<useconds_t>(random() % 30000));
  }
  const std::string image = mount.path("images/" + std::to_string(pid)), last = image + "@" + std::to_string(kSignals - 1);
  const bool all_taken = wait_until([&] { return exists(last + "/manifest"); }, std::chrono::seconds(600));
  done = true;
  user.join();
  EXPECT_TRUE(all_taken) << read_file(mount.path("ctl"));
  EXPECT_GT(snapshots, 0);
  EXPECT_TRUE(all_count());
  EXPECT_NE(read_file("/proc/" + std::to_string(pid) + "/status").find("Threads:\t" + std::to_string(kThreads) + "\n"),
            std::string::npos);
  kill(pid, SIGKILL);
  waitpid(pid, nullptr, 0);
  std::vector<std::string> check = {CKPT_BIN_DIR "/ckpt", "--mount", mount.path(), "check"};
  for (const auto& one : std::filesystem::directory_iterator(mount.path("images"))) {
    check.push_back(one.path().filename());
    size_t threads = 0;
    for (const auto& file : std::filesystem::directory_iterator(one.path() / "registers")) {
      threads += file.path().extension() != ".xsave";
    }
    EXPECT_EQ(threads, static_cast<size_t>(kThreads)) << one.path();
  }
  const CommandResult checked = run(check);
  EXPECT_EQ(checked.status, 0) << checked.output;
}

}  // namespace
}  // namespace ckpt_test
