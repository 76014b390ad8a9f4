// ckpt-bench-victim BOARD SIZE MODE CHILDREN: the process that ckpt-bench measures (victim.h). A program of its own, which links
// next to nothing, so that a victim of 1 MiB is one.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string_view>
#include <thread>

#include "tools/bench/fill_unique.h"
#include "tools/bench/victim.h"

namespace {

using namespace ckpt::bench;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

constexpr size_t kPageSize = 4096;
constexpr auto kRound = 100us;

void* map(uint64_t size, int flags, int fd) {
  void* at = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, flags, fd, 0);
  if (at != MAP_FAILED) return at;
  std::perror("ckpt-bench-victim: mmap");
  std::exit(1);
}

/// Busy, so that what is measured is not the scheduler's idea of a short sleep.
void spin_for(std::chrono::nanoseconds time) {
  const auto end = Clock::now() + time;
  while (Clock::now() < end) {
  }
}

[[noreturn]] void write_for_ever(VictimBoard& board, std::span<std::byte> memory) {
  std::mt19937_64 random(7);
  const uint64_t pages = memory.size() / kPageSize;
  // 2% in 100 ms are 2% in 1000 rounds.
  const double per_round = static_cast<double>(pages) * 0.02 / 1000;
  double due = 0;
  auto last = Clock::now();
  for (;;) {
    for (due += per_round; due >= 1; due -= 1) {
      const uint64_t value = random();
      std::memcpy(&memory[random() % pages * kPageSize], &value, sizeof value);
    }
    spin_for(kRound);
    const auto now = Clock::now();
    const auto gap = static_cast<uint64_t>(std::chrono::nanoseconds(now - last).count());
    last = now;
    if (gap > board.largest_gap_ns.load(std::memory_order_relaxed)) board.largest_gap_ns = gap;
    ++board.loops;
  }
}

/// Changes a few of its pages.
[[noreturn]] void be_a_child(VictimBoard& board, std::span<std::byte> memory, unsigned long number) {
  constexpr size_t kOwn = 16;
  for (size_t page = 0; page < kOwn && page * kPageSize < memory.size(); ++page) {
    std::memcpy(&memory[page * kPageSize], &number, sizeof number);
  }
  ++board.children;
  for (;;) ::pause();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) return 2;
  const std::string_view mode = argv[3];
  const uint64_t size = std::strtoull(argv[2], nullptr, 10);
  const int fd = ::open(argv[1], O_RDWR | O_CLOEXEC);
  VictimBoard& board = *static_cast<VictimBoard*>(map(kPageSize, MAP_SHARED, fd));
  ::close(fd);
  void* at = map(size, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  ::madvise(at, size, mode == "huge" ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  const std::span memory(static_cast<std::byte*>(at), size);
  fill_unique(memory, static_cast<uint64_t>(Clock::now().time_since_epoch().count()));
  const unsigned long children = std::strtoul(argv[4], nullptr, 10);
  for (unsigned long i = 1; i <= children; ++i) {
    if (::fork() == 0) be_a_child(board, memory, i);
  }
  while (board.children < children) spin_for(kRound);
  board.address = reinterpret_cast<uint64_t>(at);
  board.ready = 1;
  if (mode != "sleep") write_for_ever(board, memory);
  for (;;) {
    std::this_thread::sleep_for(100us);
    ++board.loops;
  }
}
