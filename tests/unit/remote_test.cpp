// Injected system calls: the result is right, and the thread never notices.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sys/syscall.h>

#include <cstring>
#include <thread>
#include <vector>

#include "engine/base/error.h"
#include "engine/process/stop.h"
#include "tests/unit/target.h"

namespace ckpt {
namespace {

using test::Child;
using test::eventually;
using test::Shared;
using Clock = std::chrono::steady_clock;

struct Report {
  std::atomic<int> ready{0};
  std::atomic<uint64_t> rounds{0};
  std::atomic<uint64_t> bad{0};
  std::atomic<bool> finish{false};
  std::atomic<int64_t> nanoseconds{0};
};

char state_of(pid_t pid) { return read_status(pid).state; }

// A loop that notices any change of a register, of the vector state or of the memory below the stack
// pointer's use.
int check_registers(Report* report) {
  report->ready = 1;
  while (!report->finish) {
    uint64_t wrong = 0;
    asm volatile(
        "mov $0x1111111111111111, %%rbx\n mov %%rbx, %%r12\n mov %%rbx, %%r13\n mov %%rbx, %%r14\n mov "
        "%%rbx, %%r15\n"
        "mov %%rbx, %%rax\n mov %%rbx, %%rcx\n mov %%rbx, %%rdx\n mov %%rbx, %%rsi\n mov %%rbx, %%rdi\n"
        "mov %%rbx, %%r8\n mov %%rbx, %%r9\n mov %%rbx, %%r10\n mov %%rbx, %%r11\n"
        "movq %%rbx, %%xmm0\n movq %%rbx, %%xmm15\n movq %%rbx, -8(%%rsp)\n movq %%rbx, -120(%%rsp)\n"
        ".rept 2000\n nop\n .endr\n"
        "xor %%rbx, %%r12\n xor %%rbx, %%r13\n xor %%rbx, %%r14\n xor %%rbx, %%r15\n xor %%rbx, %%rax\n"
        "xor %%rbx, %%rcx\n xor %%rbx, %%rdx\n xor %%rbx, %%rsi\n xor %%rbx, %%rdi\n xor %%rbx, %%r8\n"
        "xor %%rbx, %%r9\n xor %%rbx, %%r10\n xor %%rbx, %%r11\n"
        "or %%r12, %%rax\n or %%r13, %%rax\n or %%r14, %%rax\n or %%r15, %%rax\n or %%rcx, %%rax\n or %%rdx, "
        "%%rax\n"
        "or %%rsi, %%rax\n or %%rdi, %%rax\n or %%r8, %%rax\n or %%r9, %%rax\n or %%r10, %%rax\n or %%r11, "
        "%%rax\n"
        "movq %%xmm0, %%rcx\n xor %%rbx, %%rcx\n or %%rcx, %%rax\n"
        "movq %%xmm15, %%rcx\n xor %%rbx, %%rcx\n or %%rcx, %%rax\n"
        "mov -8(%%rsp), %%rcx\n xor %%rbx, %%rcx\n or %%rcx, %%rax\n"
        "mov -120(%%rsp), %%rcx\n xor %%rbx, %%rcx\n or %%rcx, %%rax\n"
        : "=&a"(wrong)
        :
        : "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "xmm0",
          "xmm15", "memory", "cc");
    if (wrong != 0) ++report->bad;
    ++report->rounds;
  }
  return report->bad == 0 ? 0 : 1;
}

TEST(RemoteSyscall, ResultsAreRight) {
  Shared<Report> report;
  Child child([&] { return check_registers(&*report); });
  ASSERT_TRUE(eventually([&] { return report->ready == 1; }));
  StoppedProcess process(child.pid());
  process.stop();
  RemoteSyscall& remote = process.leader();
  EXPECT_EQ(remote.syscall(SYS_getpid), child.pid());
  EXPECT_EQ(remote.syscall(SYS_getppid), ::getpid());
  EXPECT_EQ(remote.syscall(SYS_close, 12345), -EBADF);
  EXPECT_THROW(remote.call("close", SYS_close, 12345), Error);
  const RemotePtr path = remote.put_string("/dev/null");
  const long fd = remote.call("open", SYS_openat, static_cast<uint64_t>(AT_FDCWD), path.addr, O_RDWR);
  EXPECT_EQ(read_link(AT_FDCWD, fmt::format("/proc/{}/fd/{}", child.pid(), fd)), "/dev/null");
  EXPECT_EQ(remote.call("close", SYS_close, static_cast<uint64_t>(fd)), 0);
  process.resume();
  const uint64_t before = report->rounds;
  EXPECT_TRUE(eventually([&] { return report->rounds > before + 10; }));
  report->finish = true;
  EXPECT_EQ(child.join(), 0);
}

TEST(RemoteSyscall, NothingChangesForALoop) {
  Shared<Report> report;
  Child child([&] { return check_registers(&*report); });
  ASSERT_TRUE(eventually([&] { return report->ready == 1; }));
  for (int round = 0; round < 200; ++round) {
    StoppedProcess process(child.pid());
    process.stop();
    for (int i = 0; i < 3; ++i) EXPECT_EQ(process.leader().syscall(SYS_getpid), child.pid());
  }
  report->finish = true;
  EXPECT_EQ(child.join(), 0);
}

int64_t since(Clock::time_point start) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start).count();
}

/// Runs a call of one second in a child, stops it and injects calls during its first half. It must last a
/// second: one that began anew after the last stop would last half as long again.
void expect_one_second(const std::function<bool()>& blocking) {
  Shared<Report> report;
  Child child([&] {
    report->ready = 1;
    const auto start = Clock::now();
    const bool ok = blocking();
    report->nanoseconds = since(start);
    return ok ? 0 : 1;
  });
  ASSERT_TRUE(eventually([&] { return report->ready == 1 && state_of(child.pid()) == 'S'; }));
  const auto start = Clock::now();
  int64_t last = 0;
  while (last < 500'000'000) {
    StoppedProcess process(child.pid());
    process.stop();
    EXPECT_EQ(process.leader().syscall(SYS_getpid), child.pid());
    process.resume();
    last = since(start);
    ::usleep(20'000);
  }
  EXPECT_EQ(child.join(), 0);
  EXPECT_GE(report->nanoseconds, 1'000'000'000);
  EXPECT_LT(report->nanoseconds, 1'000'000'000 + last);
}

TEST(RemoteSyscall, NanosleepKeepsTheRestOfItsTime) {
  expect_one_second([] {
    timespec t = {1, 0};
    return ::nanosleep(&t, &t) == 0;
  });
}

TEST(RemoteSyscall, PollKeepsTheRestOfItsTime) {
  expect_one_second([] { return ::poll(nullptr, 0, 1000) == 0; });
}

TEST(RemoteSyscall, FutexWaitKeepsTheRestOfItsTime) {
  expect_one_second([] {
    int word = 0;
    timespec t = {1, 0};
    return ::syscall(SYS_futex, &word, FUTEX_WAIT, 0, &t, nullptr, 0) == -1 && errno == ETIMEDOUT;
  });
}

TEST(RemoteSyscall, ReadGoesOn) {
  int fds[2];
  ASSERT_EQ(::pipe(fds), 0);
  Shared<Report> report;
  Child child([&] {
    report->ready = 1;
    char c = 0;
    return ::read(fds[0], &c, 1) == 1 && c == 'x' ? 0 : 1;
  });
  ASSERT_TRUE(eventually([&] { return report->ready == 1 && state_of(child.pid()) == 'S'; }));
  for (int i = 0; i < 20; ++i) {
    StoppedProcess process(child.pid());
    process.stop();
    EXPECT_EQ(process.leader().syscall(SYS_getpid), child.pid());
  }
  ASSERT_EQ(::write(fds[1], "x", 1), 1);
  EXPECT_EQ(child.join(), 0);
  ::close(fds[0]);
  ::close(fds[1]);
}

// Kills tracers at random moments of their work; `rounds` of the child must go on counting.
void outlives_its_tracers(Child& child, Report& report, int kills) {
  unsigned seed = static_cast<unsigned>(child.pid());
  for (int round = 0; round < kills; ++round) {
    Shared<Report> tracing;
    Child tracer([&] {
      StoppedProcess process(child.pid());
      process.stop();
      tracing->ready = 1;
      for (int i = 0; i < 20; ++i) {
        for (Remote* thread : process.remotes()) thread->syscall(SYS_getpid);
        if (i % 5 == 4) process.finish_calls();
      }
      process.resume();
      return 0;
    });
    ASSERT_TRUE(eventually([&] { return tracing->ready == 1; }));
    const auto until = Clock::now() + std::chrono::microseconds(static_cast<unsigned>(::rand_r(&seed)) % 900);
    while (Clock::now() < until) {
    }
    ::kill(tracer.pid(), SIGKILL);
    tracer.join();
    const uint64_t before = report.rounds;
    ASSERT_TRUE(eventually([&] { return report.rounds > before + 2; })) << "round " << round;
    ASSERT_TRUE(child.alive()) << "round " << round;
  }
  report.finish = true;
  EXPECT_EQ(child.join(), 0);
}

TEST(RemoteSyscall, TheProcessOutlivesItsTracer) {
  Shared<Report> report;
  Child child([&] { return check_registers(&*report); });
  ASSERT_TRUE(eventually([&] { return report->ready == 1; }));
  outlives_its_tracers(child, *report, 120);
}

TEST(RemoteSyscall, AProcessOfManyThreadsOutlivesItsTracer) {
  Shared<Report> report;
  Child child([&] {
    std::vector<std::thread> threads;
    for (int i = 0; i < 3; ++i) threads.emplace_back([&] { check_registers(&*report); });
    for (int i = 0; i < 3; ++i) {
      threads.emplace_back([&] {
        while (!report->finish) {
          timespec t = {0, 300'000};
          if (::nanosleep(&t, &t) != 0) ++report->bad;
        }
      });
    }
    for (auto& thread : threads) thread.join();
    return report->bad == 0 ? 0 : 1;
  });
  ASSERT_TRUE(eventually([&] { return report->ready == 1 && read_status(child.pid()).threads == 7; }));
  outlives_its_tracers(child, *report, 80);
}

// Threads on stacks in a heap, as coroutines have them: what lies below their stack pointer is somebody
// else's.
TEST(RemoteSyscall, HeapStacksAreNotTouched) {
  Shared<Report> report;
  constexpr size_t kStack = 16 << 10;
  constexpr int kThreads = 12;
  Child child([&] {
    char* memory = static_cast<char*>(
        ::mmap(nullptr, kStack * (kThreads + 2), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    std::vector<pthread_t> threads(kThreads);
    for (size_t i = 0; i < kThreads; ++i) {
      pthread_attr_t attributes;
      ::pthread_attr_init(&attributes);
      ::pthread_attr_setstack(&attributes, memory + kStack * (i + 1), kStack);
      const auto body = [](void* r) -> void* {
        check_registers(static_cast<Report*>(r));
        return nullptr;
      };
      if (::pthread_create(&threads[i], &attributes, body, &*report) != 0) return 2;
    }
    for (const pthread_t thread : threads) ::pthread_join(thread, nullptr);
    return report->bad == 0 ? 0 : 1;
  });
  ASSERT_TRUE(eventually([&] { return read_status(child.pid()).threads == kThreads + 1; }));
  for (int i = 0; i < 5; ++i) {
    StoppedProcess process(child.pid());
    process.stop();
    const auto mappings = parse_mappings(process.maps());
    for (Remote* thread : process.remotes()) {
      EXPECT_EQ(thread->syscall(SYS_gettid), thread->tid());
      EXPECT_EQ(mapping_at(mappings, thread->scratch().addr)->path, "[stack]");
    }
  }
  report->finish = true;
  EXPECT_EQ(child.join(), 0);
}

}  // namespace
}  // namespace ckpt
