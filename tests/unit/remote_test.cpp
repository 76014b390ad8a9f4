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
#include "tests/unit/check_registers.h"

namespace ckpt {
namespace {

using test::check_registers;
using test::Child;
using test::eventually;
using test::Report;
using test::Shared;
using Clock = std::chrono::steady_clock;

char state_of(pid_t pid) { return read_status(pid).state; }

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

TEST(RemoteSyscall, ManyAtOnceAnswerAsOneByOne) {
  Shared<Report> report;
  Child child([&] { return check_registers(&*report); });
  ASSERT_TRUE(eventually([&] { return report->ready == 1; }));
  for (int round = 0; round < 50; ++round) {
    StoppedProcess process(child.pid());
    process.stop();
    RemoteSyscall& remote = process.leader();
    const RemotePtr at = remote.put(std::array<timespec, 2>{});
    std::vector<SystemCall> calls;
    for (int i = 0; i < 10; ++i) {
      calls.push_back({SYS_getpid, {}});
      calls.push_back({SYS_close, {12345}});
      calls.push_back({SYS_brk, {}});
    }
    calls.push_back({SYS_clock_getres, {CLOCK_MONOTONIC, at.addr}});
    calls.push_back({SYS_clock_gettime, {CLOCK_MONOTONIC, at.addr + sizeof(timespec)}});
    const std::vector<long> results = remote.run_all(calls);
    ASSERT_EQ(results.size(), calls.size());
    const long brk = remote.syscall(SYS_brk);
    for (size_t i = 0; i < 30; i += 3) {
      EXPECT_EQ(results[i], child.pid());
      EXPECT_EQ(results[i + 1], -EBADF);
      EXPECT_EQ(results[i + 2], brk);
    }
    EXPECT_EQ(results[30], 0);
    EXPECT_EQ(results[31], 0);
    const auto times = remote.get<std::array<timespec, 2>>(at);
    EXPECT_EQ(times[0].tv_nsec, 1);
    EXPECT_GT(times[1].tv_sec, 0);
  }
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

// Caught between the kernel's decision to restart and the restart itself, by a tracer that dies.
TEST(RemoteSyscall, ASleepAboutToBeRestartedOutlivesItsTracer) {
  Shared<Report> report;
  Child child([&] {
    report->ready = 1;
    timespec t = {0, 300'000'000};
    return ::nanosleep(&t, nullptr) == 0 ? 0 : 1;
  });
  ASSERT_TRUE(eventually([&] { return report->ready == 1 && state_of(child.pid()) == 'S'; }));
  Child tracer([&] {
    InjectionSite site = find_injection_site(
        child.pid(), parse_mappings(read_file(fmt::format("/proc/{}/maps", child.pid()))));
    Tracee thread(child.pid(), child.pid());
    thread.interrupt();
    if (!thread.wait_stop(Clock::now() + std::chrono::seconds(20))) return 1;
    user_regs_struct regs = thread.registers();
    if (static_cast<long>(regs.rax) != -516) return 2;
    regs.rip -= 2;  // arch_do_signal_or_restart()
    regs.rax = SYS_restart_syscall;
    thread.set_registers(regs);
    RemoteSyscall remote(thread, site);
    if (remote.syscall(SYS_getpid) != child.pid()) return 3;
    return ::kill(::getpid(), SIGKILL);
  });
  EXPECT_EQ(tracer.join(), 1000 + SIGKILL);
  EXPECT_EQ(child.join(), 0);
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
