#include "tools/bench/victim.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cstring>
#include <random>
#include <thread>

#include "engine/base/error.h"
#include "engine/base/fd.h"
#include "engine/image/digest.h"
#include "tools/bench/bench.h"
#include "tools/bench/floors.h"

namespace ckpt::bench {

namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

constexpr auto kRound = 100us;
constexpr auto kPatience = 120s;

VictimBoard* map_board(const std::string& file, bool create) {
  const UniqueFd fd = open_at(AT_FDCWD, file, O_RDWR | (create ? O_CREAT : 0), 0600);
  if (create && ::ftruncate(fd.get(), kPageSize) != 0) fail_errno("{}", file);
  void* at = ::mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (at == MAP_FAILED) fail_errno("{}: mapping", file);
  return static_cast<VictimBoard*>(at);
}

template <typename Condition>
void wait_until(const Condition& condition, const char* what) {
  const auto end = Clock::now() + kPatience;
  while (!condition()) {
    if (Clock::now() > end) fail(ETIMEDOUT, "waited in vain for {}", what);
    std::this_thread::sleep_for(100us);
  }
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

}  // namespace

void be_victim(const std::string& board_file, uint64_t size, const std::string& mode) {
  VictimBoard& board = *map_board(board_file, false);
  void* at = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) fail_errno("mapping {} bytes", size);
  ::madvise(at, size, mode == "huge" ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  const std::span memory(static_cast<std::byte*>(at), size);
  fill_unique(memory, static_cast<uint64_t>(Clock::now().time_since_epoch().count()));
  board.address = reinterpret_cast<uint64_t>(at);
  board.ready = 1;
  if (mode != "sleep") write_for_ever(board, memory);
  for (;;) {
    std::this_thread::sleep_for(100us);
    ++board.loops;
  }
}

Victim::Victim(const std::string& dir, uint64_t size, bool writing, bool huge) : file_(dir + "/board") {
  board_ = map_board(file_, true);
  new (board_) VictimBoard{};
  const char* mode = !writing ? "sleep" : huge ? "huge" : "write";
  const std::string size_text = std::to_string(size);
  pid_ = ::fork();
  if (pid_ < 0) fail_errno("starting a process");
  if (pid_ == 0) {
    ::setsid();
    const int null = ::open("/dev/null", O_RDWR);
    for (int fd = 0; fd <= 2; ++fd) ::dup2(null, fd);
    ::close_range(3, ~0U, 0);
    ::execl("/proc/self/exe", "ckpt-bench", "--victim", file_.c_str(), size_text.c_str(), mode, nullptr);
    ::_exit(127);
  }
  wait_until([this] { return board_->ready == 1; }, "the measured process to fill its memory");
}

Victim::~Victim() {
  end();
  ::munmap(board_, kPageSize);
  ::unlink(file_.c_str());
}

void Victim::end() {
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
  // After a resume it is no child of ours, and init reaps it.
  wait_until([this] { return ::kill(pid_, 0) != 0; }, "the measured process to end");
}

void Victim::wait_until_running() {
  const uint64_t before = board_->loops;
  wait_until([&] { return board_->loops > before; }, "the resumed process to run");
}

}  // namespace ckpt::bench
