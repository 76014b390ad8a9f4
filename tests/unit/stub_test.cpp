// The resume's stub: a process under a chosen pid, driven from outside.
#include "engine/process/stub.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "engine/base/error.h"

namespace ckpt {
namespace {

constexpr RemotePtr kHole{0x5000'0000'0000};

bool exists(pid_t pid) { return ::kill(pid, 0) == 0 || errno != ESRCH; }

// A pid that nobody has, high enough that nobody is about to get it.
pid_t free_pid() {
  static pid_t next = 30000 + (getpid() * 37) % 2000;
  while (exists(next)) ++next;
  return next++;
}

int field(pid_t pid, const std::string& name) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(in, line);) {
    if (line.rfind(name + ":", 0) == 0) return std::stoi(line.substr(name.size() + 1));
  }
  return -1;
}

class StubTest : public testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "a chosen pid needs privileges";
  }
};

TEST_F(StubTest, RunsUnderTheChosenPidAsNobodysChildOfOurs) {
  const pid_t pid = free_pid();
  {
    Stub stub(pid, false);
    EXPECT_EQ(stub.leader().call("getpid", SYS_getpid), pid);
    EXPECT_EQ(std::filesystem::begin(std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/fd")),
              std::filesystem::directory_iterator());
    stub.hand_over();
    EXPECT_NE(field(pid, "PPid"), getpid());
  }
}

TEST_F(StubTest, KillLeavesNothing) {
  const pid_t pid = free_pid();
  for (int i = 0; i < 20; ++i) {
    Stub stub(pid, i % 2 == 1);
    stub.use_helper(kHole);
    stub.add_thread(pid + 1);
    stub.add_thread(pid + 2);
    EXPECT_TRUE(exists(pid + 2));
  }
  EXPECT_FALSE(exists(pid));
  EXPECT_FALSE(exists(pid + 1));
  EXPECT_EQ(waitpid(-1, nullptr, __WALL | WNOHANG), -1);
  EXPECT_EQ(errno, ECHILD);
}

TEST_F(StubTest, SaysWhoHasThePid) {
  try {
    Stub stub(getpid(), false);
    FAIL() << "our own pid was given away";
  } catch (const Error& e) {
    EXPECT_EQ(e.err(), EEXIST);
    EXPECT_NE(e.sentence().find(std::to_string(getpid()) + ": the pid is in use (by"), std::string::npos);
  }
  EXPECT_EQ(waitpid(-1, nullptr, __WALL | WNOHANG), -1);
}

TEST_F(StubTest, WaitsForAZombieThatGoesAway) {
  const pid_t pid = fork();
  if (pid == 0) _exit(0);
  siginfo_t info;
  waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT);
  std::thread reaper([pid] {
    usleep(20'000);
    waitpid(pid, nullptr, 0);
  });
  EXPECT_NO_THROW(Stub(pid, false));
  reaper.join();
}

TEST_F(StubTest, RemoteCallsAfterEverythingElseIsUnmapped) {
  Stub stub(free_pid(), false);
  CpuPin pin(stub);
  stub.use_helper(kHole);
  const uint64_t low = 65536;
  stub.leader().call("munmap", SYS_munmap, low, kHole.addr - low);
  EXPECT_EQ(stub.leader().syscall(SYS_getpid), stub.pid());
  EXPECT_EQ(stub.leader().syscall(SYS_close, 99), -EBADF);
  try {
    stub.leader().call("close", SYS_close, 99);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.err(), EBADF);
  }
  const RemotePtr at = stub.leader().put(uint64_t{0x1122334455667788}, 128);
  EXPECT_EQ(stub.leader().get<uint64_t>(at), 0x1122334455667788u);
}

TEST_F(StubTest, EveryRemoteCallAnswers) {
  Stub stub(free_pid(), false);
  CpuPin pin(stub);
  for (int i = 0; i < 2000; ++i) ASSERT_EQ(stub.leader().syscall(SYS_getpid), stub.pid()) << "call " << i;
}

TEST_F(StubTest, ManyCallsAtOnceAnswerAsOneByOne) {
  Stub stub(free_pid(), false);
  stub.use_helper(kHole);
  // Stop signals that somebody sends neither end the calls early nor leave it stopped.
  const std::jthread nuisance([pid = stub.pid()](const std::stop_token& enough) {
    while (!enough.stop_requested()) {
      kill(pid, SIGSTOP);
      usleep(100);  // without a rest one stop would follow the other
    }
  });
  for (const size_t count : {1, 2, 64, 65, 1000}) {
    std::vector<SystemCall> calls;
    for (size_t i = 0; i < count; ++i) {
      calls.push_back({SYS_getpid, {}});
      calls.push_back({SYS_close, {100000 + i}});
      calls.push_back({SYS_umask, {i & 0777}});
    }
    const std::vector<long> results = stub.leader().run_all(calls);
    ASSERT_EQ(results.size(), calls.size());
    for (size_t i = 0; i < count; ++i) {
      EXPECT_EQ(results[3 * i], stub.pid());
      EXPECT_EQ(results[3 * i + 1], -EBADF);
      if (i > 0) {
        EXPECT_EQ(results[3 * i + 2], static_cast<long>((i - 1) & 0777));
      }
    }
    EXPECT_EQ(stub.leader().syscall(SYS_getpid), stub.pid());
  }
}

TEST_F(StubTest, PlacesDescriptorsAtTheirNumbers) {
  std::vector<UniqueFd> files;
  std::vector<Placement> to;
  // Dense, then with gaps, then far up, more than one message holds.
  for (int i = 0; i < 600; ++i) {
    files.emplace_back(memfd_create("x", MFD_CLOEXEC));
    if (ftruncate(files.back().get(), i + 1) != 0) FAIL();
    const int number = i < 100 ? i : i < 400 ? 100 + (i - 100) * 3 : 5000 + i;
    to.push_back({files.back().get(), number, i % 3 == 0});
  }
  to.push_back({files[7].get(), 9000, false});   // the same file description again
  Stub stub(free_pid(), false);
  CpuPin pin(stub);
  stub.use_helper(kHole);
  stub.open_channel(9001);
  stub.place(to);
  const std::string dir = "/proc/" + std::to_string(stub.pid()) + "/fd/";
  for (size_t i = 0; i < to.size(); ++i) {
    struct stat st = {};
    ASSERT_EQ(stat((dir + std::to_string(to[i].number)).c_str(), &st), 0) << to[i].number;
    EXPECT_EQ(st.st_size, i < 600 ? static_cast<off_t>(i + 1) : 8);
    const long flags = stub.leader().call("fcntl", SYS_fcntl, static_cast<uint64_t>(to[i].number), F_GETFD);
    EXPECT_EQ(flags != 0, to[i].cloexec);
  }
  EXPECT_EQ(::syscall(SYS_kcmp, stub.pid(), stub.pid(), 0, 7, 9000), 0);
  const int given = stub.give(files[0].get());
  EXPECT_EQ(stub.leader().call("close", SYS_close, static_cast<uint64_t>(given)), 0);
  stub.close_channel();
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir), std::filesystem::directory_iterator()), 601);
}

TEST_F(StubTest, AKilledStubIsAnError) {
  const pid_t pid = free_pid();
  {
    Stub stub(pid, true);
    ::kill(pid, SIGKILL);
    EXPECT_THROW(
        for (int i = 0; i < 3; ++i) stub.leader().syscall(SYS_getpid), Error);
  }
  EXPECT_FALSE(exists(pid));
}

TEST_F(StubTest, ReleasedItRunsWithTheRegistersItWasGiven) {
  const pid_t pid = free_pid();
  {
    Stub stub(pid, true);
    stub.use_helper(kHole);
    // A page of its own: exit_group(42).
    const uint8_t code[] = {0xbf, 42, 0, 0, 0, 0xb8, 231, 0, 0, 0, 0x0f, 0x05};
    const RemotePtr page{0x6000'0000'0000};
    stub.leader().call("mmap", SYS_mmap, page.addr, 4096, PROT_READ | PROT_EXEC,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, ~0ull, 0);
    stub.leader().write(page, std::as_bytes(std::span(code)));
    stub.hand_over();
    stub.release(false, [&](StubThread& thread) {
      user_regs_struct regs = {};
      ptrace(PTRACE_GETREGS, thread.tid(), 0, &regs);
      regs.rip = page.addr;
      regs.orig_rax = ~0ull;
      ptrace(PTRACE_SETREGS, thread.tid(), 0, &regs);
    });
  }
  int status = 0;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 42);
}

}  // namespace
}  // namespace ckpt
