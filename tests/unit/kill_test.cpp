// ckptfs killed at every step of a checkpoint, for every way to take a snapshot: the process goes on with its own
// registers, memory and descriptors, and nothing of ours is left in it or beside it.
#include <dirent.h>
#include <grp.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <sstream>

#include "engine/base/record.h"
#include "engine/engine.h"
#include "engine/memory/snapshot.h"
#include "engine/process/proc_status.h"
#include "tests/unit/check_registers.h"
#include "tests/unit/kill_steps.h"
#include "tests/unit/memory_store.h"

namespace ckpt {
namespace {

using test::check_registers;
using test::Child;
using test::eventually;
using test::kill_at_step;
using test::KilledAt;
using test::Report;
using test::Shared;

constexpr size_t kPages = 1024;
/// Of the process that is killed, and of its copies; nobody else's, whatever tests run beside this one.
const std::string kName = fmt::format("killed-{}", ::getpid());

/// Writes a number to both ends of each page, and looks whether the last one is still there.
void check_memory(Report& report, std::byte* memory) {
  for (uint64_t round = 1; !report.finish; ++round) {
    for (size_t page = 0; page < kPages; ++page) {
      auto* first = reinterpret_cast<uint64_t*>(memory + page * kPageSize);
      auto* last = first + kPageSize / sizeof *first - 1;
      if (*first != round - 1 || *last != round - 1) ++report.bad;
      *first = *last = round;
    }
    ++report.rounds;
  }
}

void check_sleep(Report& report) {
  while (!report.finish) {
    timespec t = {0, 300'000};
    if (::nanosleep(&t, &t) != 0) ++report.bad;
    ++report.rounds;
  }
}

struct Victim {
  bool own_user;   ///< of nobody, without any right

  int run(Report& report) const {
    constexpr uid_t kNobody = 65534;
    test::close_all();
    ::prctl(PR_SET_NAME, kName.c_str());
    if (own_user && (::setgroups(0, nullptr) != 0 || ::setresgid(kNobody, kNobody, kNobody) != 0 ||
                     ::setresuid(kNobody, kNobody, kNobody) != 0)) {
      return 1;
    }
    // More than a small process, so that it is not simply copied.
    void* memory = ::mmap(nullptr, kPages * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return 2;
    std::vector<std::thread> threads;
    threads.emplace_back([&] {
      ++report.others;
      check_memory(report, static_cast<std::byte*>(memory));
    });
    threads.emplace_back([&] {
      ++report.others;
      check_sleep(report);
    });
    check_registers(&report);
    for (auto& thread : threads) thread.join();
    return report.bad == 0 ? 0 : 3;
  }
};

/// Everything about a process that a checkpoint must not change, as text.
std::string state_of(pid_t pid) {
  const UniqueFd dir = open_proc(pid);
  std::string text;
  for (const pid_t tid : list_tasks(dir.get())) {
    const std::string status = read_file(dir.get(), fmt::format("task/{}/status", tid));
    for (const char* name : {"TracerPid", "SigPnd", "ShdPnd", "SigBlk", "Threads"}) {
      text += fmt::format("{} {} {}\n", tid, name, status_field(status, name));
    }
  }
  const std::string fds = fmt::format("/proc/{}/fd", pid);
  for (int fd = 0; fd < 32; ++fd) {
    std::array<char, 256> target{};
    if (::readlink(fmt::format("{}/{}", fds, fd).c_str(), target.data(), target.size() - 1) > 0) {
      text += fmt::format("fd {} {}\n", fd, target.data());
    }
  }
  for (const Vma& vma : parse_maps(read_file(dir.get(), "smaps"), "smaps")) {
    // The main stack may have grown.
    text += fmt::format("{:x}-{:x} {} {}\n", vma.path == "[stack]" ? 0 : vma.start, vma.end, vma.path,
                        vma.has_flag("uw") || vma.has_flag("um") ? "registered" : "");
  }
  return text;
}

/// The first lines that are not the same in both.
std::string difference(const std::string& before, const std::string& now) {
  std::istringstream old_text(before), new_text(now);
  std::string was, is;
  while (is == was && old_text && new_text) {
    std::getline(old_text, was);
    std::getline(new_text, is);
  }
  return is == was ? "" : fmt::format("'{}' instead of '{}'", is, was);
}

/// Copies that were made of a process and live, or are zombies of its. A zombie of init's is about to be reaped.
int copies_of(pid_t pid) {
  int count = 0;
  DIR* dir = ::opendir("/proc");
  while (const dirent* entry = ::readdir(dir)) {
    const auto other = parse_u64(entry->d_name);
    if (!other || static_cast<pid_t>(*other) == pid) continue;
    try {
      const ProcStatus status = read_status(static_cast<pid_t>(*other));
      if (status.name == kName && (status.state != 'Z' || status.ppid == pid)) ++count;
    } catch (const Error&) {
      // It has ended.
    }
  }
  ::closedir(dir);
  return count;
}

struct Case {
  const char* strategy;
  bool own_user;
  friend std::ostream& operator<<(std::ostream& out, const Case& tested) { return out << tested.strategy; }
};

class KilledAtEveryStep : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (GetParam().own_user && ::geteuid() != 0) GTEST_SKIP() << "needs root to become somebody";
  }

  KilledAt checkpoint_until(int step, pid_t pid) const {
    return kill_at_step(step, [&] {
      MemoryStore store;
      CheckpointOptions options;
      options.snapshot = GetParam().strategy;
      checkpoint(store, pid, Caller::self(), options);
    });
  }
};

TEST_P(KilledAtEveryStep, TheProcessGoesOnAsIfNothingHadBeen) {
  Shared<Report> report;
  const Victim victim{GetParam().own_user};
  Child child([&] { return victim.run(*report); });
  const auto counts_on = [&] {
    const uint64_t before = report->rounds;
    return eventually([&] { return report->rounds > before + 2; });
  };
  ASSERT_TRUE(eventually([&] { return report->others == 2 && report->ready == 1; }));
  const std::string before = state_of(child.pid());
  const KilledAt whole = checkpoint_until(0, child.pid());
  ASSERT_FALSE(whole.killed);
  ASSERT_EQ(whole.status, 0);
  ASSERT_GT(whole.steps, 20);
  EXPECT_EQ(difference(before, state_of(child.pid())), "");

  // Every step would take a minute: another choice each time.
  constexpr int kKills = 60;
  std::mt19937 random(std::random_device{}());
  const int stride = std::max(1, whole.steps / kKills);
  int killed = 0;
  for (int step = 1 + static_cast<int>(random() % static_cast<unsigned>(stride));; step += stride) {
    const KilledAt end = checkpoint_until(step, child.pid());
    if (!end.killed) {
      EXPECT_EQ(end.status, 0);
      break;
    }
    ++killed;
    ASSERT_TRUE(child.alive()) << "killed by step " << step;
    std::string changed;
    ASSERT_TRUE(eventually([&] { return (changed = difference(before, state_of(child.pid()))).empty(); }))
        << "step " << step << " of " << whole.steps << ": " << changed;
    ASSERT_TRUE(eventually([&] { return copies_of(child.pid()) == 0; })) << "step " << step;
    const UniqueFd dir = open_proc(child.pid());
    ASSERT_TRUE(list_children(dir.get()).empty()) << "step " << step;
    ASSERT_TRUE(counts_on()) << "step " << step;
    ASSERT_EQ(report->bad, 0u) << "step " << step;
  }
  EXPECT_GT(killed, 10);
  report->finish = true;
  EXPECT_EQ(child.join(), 0);
}

/// Whatever is left behind below a subreaper becomes its child, and its end a SIGCHLD.
TEST(ForkSnapshot, LeavesNoChildToASubreaper) {
  Shared<Report> report;
  Child child([&] {
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);
    struct sigaction action {};
    action.sa_handler = [](int) { ::_exit(9); };
    ::sigaction(SIGCHLD, &action, nullptr);
    return Victim{false}.run(*report);
  });
  ASSERT_TRUE(eventually([&] { return report->others == 2 && report->ready == 1; }));
  MemoryStore store;
  CheckpointOptions options;
  options.snapshot = "fork";
  for (int i = 0; i < 3; ++i) checkpoint(store, child.pid(), Caller::self(), options);
  const UniqueFd dir = open_proc(child.pid());
  EXPECT_TRUE(list_children(dir.get()).empty());
  report->finish = true;
  EXPECT_EQ(child.join(), 0);
}

/// As the shadow memory of a sanitizer is, or the heap of some language: a call for each of its parts would be millions.
TEST(WriteProtectSnapshot, AReservationOfTerabytesTakesFewCalls) {
  constexpr size_t kReserved = size_t{8} << 40;
  Shared<std::atomic<int>> ready;
  Child child([&] {
    test::close_all();
    constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* memory = ::mmap(nullptr, kReserved, PROT_READ | PROT_WRITE, kFlags, -1, 0);
    if (memory == MAP_FAILED) return 2;
    std::memset(memory, 1, kPages * kPageSize);
    *ready = 1;
    for (;;) ::pause();
  });
  ASSERT_TRUE(eventually([&] { return *ready == 1; }));
  const KilledAt whole = kill_at_step(0, [&] {
    MemoryStore store;
    CheckpointOptions options;
    options.snapshot = "write-protect";
    checkpoint(store, child.pid(), Caller::self(), options);
  });
  EXPECT_EQ(whole.status, 0);
  EXPECT_LT(whole.steps, 100'000);
}

INSTANTIATE_TEST_SUITE_P(OfEveryStrategy, KilledAtEveryStep,
                         testing::Values(Case{"copy", false}, Case{"copy", true}, Case{"write-protect", false},
                                         Case{"write-protect", true}, Case{"fork", false}, Case{"fork", true}),
                         [](const auto& tested) {
                           std::string name = tested.param.strategy;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name + (tested.param.own_user ? "_of_nobody" : "");
                         });

}  // namespace
}  // namespace ckpt
