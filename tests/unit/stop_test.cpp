// Stopping a whole process: threads that are born and die meanwhile, signals under load, job control, time
// limits.
#include <gtest/gtest.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>

#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "engine/base/error.h"
#include "engine/process/procfs.h"
#include "engine/process/stop.h"
#include "tests/unit/target.h"

namespace ckpt {
namespace {

using test::become_sleep;
using test::Child;
using test::eventually;
using test::Shared;

struct Report {
  std::atomic<int> ready{0};
  std::atomic<uint64_t> rounds{0};
  std::atomic<uint64_t> signals{0};
  std::atomic<bool> finish{false};
};

Report* handler_report = nullptr;
void count_signal(int) { ++handler_report->signals; }

int sleep_in_threads(Report* report, int count) {
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i) {
    threads.emplace_back([report, i] {
      ++report->ready;
      while (!report->finish) {
        if (i % 2 == 0) ::usleep(100);
        ++report->rounds;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  return 0;
}

// Reads the clock half of the time, through the vDSO.
int read_clock(Report* report) {
  timespec now{};
  report->ready = 1;
  for (uint64_t sum = 0; !report->finish; report->rounds += sum & 1) {
    for (int i = 0; i < 10; ++i) ::clock_gettime(CLOCK_MONOTONIC, &now);
    for (int i = 0; i < 1000; ++i) asm volatile("" : "+r"(sum) : "r"(now.tv_nsec));
  }
  return 0;
}

TEST(StoppedProcess, LetsThreadsLeaveTheVdso) {
  Shared<Report> report;
  Child child([&] { return read_clock(&*report); });
  ASSERT_TRUE(eventually([&] { return report->ready == 1; }));
  for (int i = 0; i < 50; ++i) {
    StoppedProcess process(child.pid());
    process.stop_outside_vdso();
    const auto mappings = parse_mappings(process.maps());
    const Mapping* at = mapping_at(mappings, process.leader().tracee().registers().rip);
    ASSERT_NE(at, nullptr);
    EXPECT_NE(at->path, "[vdso]");
  }
  report->finish = true;
  EXPECT_EQ(child.join(), 0);
}

TEST(StoppedProcess, HoldsEveryThreadStill) {
  Shared<Report> report;
  Child child([&] { return sleep_in_threads(&*report, 8); });
  ASSERT_TRUE(eventually([&] { return report->ready == 8; }));
  for (int i = 0; i < 20; ++i) {
    StoppedProcess process(child.pid());
    process.stop();
    ASSERT_EQ(process.threads().size(), 9u);
    EXPECT_EQ(process.remotes().front()->tid(), child.pid());
    std::set<long> tids;
    for (Remote* thread : process.remotes()) tids.insert(thread->syscall(SYS_gettid));
    EXPECT_EQ(tids.size(), 9u);
    const uint64_t before = report->rounds;
    ::usleep(1000);
    EXPECT_EQ(report->rounds, before);
    process.resume();
    EXPECT_GT(process.stop_ns(), 1'000'000u);
    EXPECT_TRUE(eventually([&] { return report->rounds > before; }));
  }
  report->finish = true;
  EXPECT_EQ(child.join(), 0);
}

int make_threads(Report* report) {
  report->ready = 1;
  while (!report->finish) {
    std::thread a([&] { ++report->rounds; });
    std::thread b([&] { ++report->rounds; });
    a.join();
    b.join();
  }
  return 0;
}

// Of threads that each make the next one and end, only one is alive at a time.
void* pass_on(void* argument) {
  auto* report = static_cast<Report*>(argument);
  ++report->rounds;
  pthread_t next;
  if (report->finish) {
    report->signals = 1;
  } else if (::pthread_create(&next, nullptr, pass_on, report) == 0) {
    ::pthread_detach(next);
  }
  return nullptr;
}

int chain_threads(Report* report) {
  pass_on(report);
  report->ready = 1;
  while (report->signals == 0) ::usleep(1000);
  return 0;
}

// Again and again; at each stop no thread runs, listed or not: the count stands still.
void expect_stopped(Child& child, Report& report, int times) {
  for (int i = 0; i < times; ++i) {
    StoppedProcess process(child.pid());
    process.stop();
    EXPECT_EQ(process.remotes().front()->tid(), child.pid());
    const uint64_t before = report.rounds;
    const UniqueFd dir = open_proc(child.pid());
    for (const pid_t tid : list_tasks(dir.get())) EXPECT_EQ(read_status(tid).state, 't');
    process.leader().syscall(SYS_getpid);
    ::usleep(100);
    EXPECT_EQ(report.rounds, before);
  }
  report.finish = true;
  EXPECT_EQ(child.join(), 0);
}

TEST(StoppedProcess, ThreadsMayBeBornAndDieMeanwhile) {
  Shared<Report> report;
  Child child([&] { return make_threads(&*report); });
  ASSERT_TRUE(eventually([&] { return report->ready == 1; }));
  expect_stopped(child, *report, 100);
}

TEST(StoppedProcess, AThreadThatIsAlwaysAnotherIsCaught) {
  Shared<Report> report;
  Child child([&] { return chain_threads(&*report); });
  ASSERT_TRUE(eventually([&] { return report->ready == 1; }));
  expect_stopped(child, *report, 100);
}

// A child with the highest free pid: what it makes has lower numbers, as after the numbers have begun again.
pid_t fork_with_a_high_pid() {
  for (pid_t pid = std::stoi(read_file("/proc/sys/kernel/pid_max")) - 1; pid > 1000; --pid) {
    clone_args args{};
    args.exit_signal = SIGCHLD;
    args.set_tid = reinterpret_cast<uint64_t>(&pid);
    args.set_tid_size = 1;
    const long made = ::syscall(SYS_clone3, &args, sizeof args);
    if (made >= 0 || errno != EEXIST) return static_cast<pid_t>(made);
  }
  return -1;
}

TEST(StoppedProcess, ThreadsMayHaveLowerNumbersThanTheMainThread) {
  Shared<Report> report;
  Child child([&] { return make_threads(&*report); }, fork_with_a_high_pid);
  if (child.pid() < 0) GTEST_SKIP() << "choosing a pid needs CAP_CHECKPOINT_RESTORE";
  ASSERT_TRUE(eventually([&] { return report->ready == 1; }));
  expect_stopped(child, *report, 100);
}

// clone(2) with another signal than SIGCHLD makes a process that looks like a thread to its tracer.
TEST(StoppedProcess, AProcessMadeMeanwhileIsLetGo) {
  Shared<Report> report;
  Child child([&] {
    report->ready = 1;
    while (!report->finish) {
      const long made = ::syscall(SYS_clone, 0, 0, 0, 0, 0);
      if (made == 0) ::_exit(++report->rounds > 0 ? 3 : 0);
      int status = 0;
      if (::waitpid(static_cast<pid_t>(made), &status, __WALL) != made || WEXITSTATUS(status) != 3) return 1;
    }
    return 0;
  });
  ASSERT_TRUE(eventually([&] { return report->rounds > 0; }));
  for (int i = 0; i < 100; ++i) {
    StoppedProcess process(child.pid());
    process.stop();
    EXPECT_EQ(process.remotes().size(), 1u);
    process.resume();
    const uint64_t before = report->rounds;
    ASSERT_TRUE(eventually([&] { return report->rounds > before + 1; }));
  }
  report->finish = true;
  EXPECT_EQ(child.join(), 0);
}

// Seized, the main thread ends while another goes on: its end is reported to nobody as long as the other lives.
TEST(StoppedProcess, AMainThreadThatEndsIsNamedAtOnce) {
  Shared<Report> report;
  Child child([&] {
    std::thread other([&] {
      report->ready = 1;
      while (!report->finish) ++report->rounds;
      ::_exit(0);
    });
    other.detach();
    while (report->signals == 0) ::usleep(100);
    ::syscall(SYS_exit, 0);  // of this thread only; pthread_exit would unwind it
    return 1;
  });
  ASSERT_TRUE(eventually([&] { return report->ready == 1; }));
  int err = 0;
  std::thread tracer([&] {
    try {
      StoppedProcess process(child.pid());
      report->signals = 1;
      if (!eventually([&] { return read_status(child.pid()).state == 'Z'; })) return;
      process.stop();
    } catch (const Error& e) {
      err = e.err();
      EXPECT_NE(e.sentence().find("main thread"), std::string::npos) << e.sentence();
    }
  });
  tracer.join();
  EXPECT_EQ(err, EOPNOTSUPP);
  const uint64_t before = report->rounds;
  EXPECT_TRUE(eventually([&] { return report->rounds > before + 10; }));
  report->finish = true;
  EXPECT_EQ(child.join(), 0);
}

TEST(StoppedProcess, SignalsUnderLoadArriveExactlyOnce) {
  Shared<Report> report;
  Child child([&] {
    handler_report = &*report;
    struct sigaction action {};
    action.sa_handler = count_signal;
    ::sigaction(SIGRTMIN, &action, nullptr);
    return sleep_in_threads(&*report, 2);
  });
  ASSERT_TRUE(eventually([&] { return report->ready == 2; }));
  std::atomic<bool> stop_sending{false};
  uint64_t sent = 0;
  std::thread sender([&] {
    while (!stop_sending) {
      if (::sigqueue(child.pid(), SIGRTMIN, {}) == 0) ++sent;
      ::usleep(50);
    }
  });
  for (int i = 0; i < 150; ++i) {
    StoppedProcess process(child.pid());
    process.stop();
    for (Remote* thread : process.remotes()) thread->syscall(SYS_getpid);
  }
  stop_sending = true;
  sender.join();
  EXPECT_TRUE(eventually([&] { return report->signals == sent; })) << report->signals << " of " << sent;
  report->finish = true;
  EXPECT_EQ(child.join(), 0);
  EXPECT_GT(sent, 100u);
}

TEST(StoppedProcess, AStoppedOneStaysStopped) {
  Shared<Report> report;
  Child child([&] { return sleep_in_threads(&*report, 3); });
  ASSERT_TRUE(eventually([&] { return report->ready == 3; }));
  ::kill(child.pid(), SIGSTOP);
  ASSERT_TRUE(eventually([&] { return read_status(child.pid()).state == 'T'; }));
  for (int i = 0; i < 10; ++i) {
    {
      StoppedProcess process(child.pid());
      process.stop();
      EXPECT_TRUE(process.group_stopped());
      for (Remote* thread : process.remotes()) EXPECT_EQ(thread->syscall(SYS_getpid), child.pid());
    }
    const uint64_t before = report->rounds;
    ASSERT_TRUE(eventually([&] { return read_status(child.pid()).state == 'T'; }));
    ::usleep(2000);
    EXPECT_EQ(report->rounds, before);
  }
  ::kill(child.pid(), SIGCONT);
  const uint64_t before = report->rounds;
  EXPECT_TRUE(eventually([&] { return report->rounds > before + 10; }));
  report->finish = true;
  EXPECT_EQ(child.join(), 0);
}

TEST(StoppedProcess, AStopSignalDuringCallsIsNotLost) {
  Shared<Report> report;
  Child child([&] { return sleep_in_threads(&*report, 3); });
  ASSERT_TRUE(eventually([&] { return report->ready == 3; }));
  {
    StoppedProcess process(child.pid());
    process.stop();
    process.leader().syscall(SYS_getpid);
    ::kill(child.pid(), SIGSTOP);
    for (Remote* thread : process.remotes()) EXPECT_EQ(thread->syscall(SYS_getpid), child.pid());
  }
  EXPECT_TRUE(eventually([&] { return read_status(child.pid()).state == 'T'; }));
  ::kill(child.pid(), SIGCONT);
  const uint64_t before = report->rounds;
  EXPECT_TRUE(eventually([&] { return report->rounds > before + 10; }));
  report->finish = true;
  EXPECT_EQ(child.join(), 0);
}

TEST(StoppedProcess, AVforkParentIsNamedAndGoesOn) {
  Shared<Report> report;
  Child child([&] {
    report->ready = 1;
    if (::vfork() == 0) {
      while (!report->finish) ::usleep(200);
      ::_exit(0);
    }
    report->rounds = 1;
    return 0;
  });
  ASSERT_TRUE(eventually([&] { return report->ready == 1 && read_status(child.pid()).state == 'D'; }));
  int err = 0;
  std::thread tracer([&] {
    try {
      StoppedProcess process(child.pid());
      process.stop(nullptr, std::chrono::milliseconds(100));
    } catch (const Error& e) {
      err = e.err();
      EXPECT_NE(e.sentence().find(std::to_string(child.pid())), std::string::npos);
    }
  });
  tracer.join();
  EXPECT_EQ(err, EBUSY);
  report->finish = true;
  EXPECT_TRUE(eventually([&] { return report->rounds == 1; }));
  EXPECT_EQ(child.join(), 0);
}

TEST(StoppedProcess, IsKilled) {
  Shared<Report> report;
  Child child([&] { return sleep_in_threads(&*report, 4); });
  ASSERT_TRUE(eventually([&] { return report->ready == 4; }));
  StoppedProcess process(child.pid());
  process.stop();
  process.leader().syscall(SYS_getpid);
  process.kill();
  EXPECT_EQ(child.join(), 1000 + SIGKILL);
}

// The code that serves for injection was found in the program before.
TEST(StoppedProcess, AnExecBetweenLookingAndStopping) {
  Shared<Report> report;
  Child child([&] { return become_sleep(*report); });
  ASSERT_TRUE(eventually([&] { return report->ready == 1; }));
  StoppedProcess process(child.pid());
  report->finish = true;
  ASSERT_TRUE(eventually([&] { return read_status(child.pid()).name == "sleep"; }));
  process.stop();
  EXPECT_EQ(process.leader().call("getpid", SYS_getpid), child.pid());
  process.resume();
  EXPECT_TRUE(eventually([&] { return read_status(child.pid()).state == 'S'; }));
  EXPECT_TRUE(child.alive());
}

// A thread that is in an exec waits for the end of the others, which their tracer must take note of. Whichever
// thread is the main one by then, and whatever program: it is stopped.
TEST(StoppedProcess, ExecsOfThreadsNeverHang) {
  const UniqueFd starts(::eventfd(0, EFD_NONBLOCK));
  Child child([&] {
    ::execl(EXECUTING_THREADS, "executing_threads", std::to_string(starts.get()).c_str(), nullptr);
    return 98;
  });
  const auto starts_again = [&] {
    eventfd_t count = 0;
    return eventually([&] { return ::eventfd_read(starts.get(), &count) == 0; });
  };
  ASSERT_TRUE(starts_again());
  for (int round = 0; round < 100; ++round) {
    std::thread tracer([&] {
      try {
        StoppedProcess process(child.pid());
        process.stop();
        for (Remote* thread : process.remotes()) EXPECT_EQ(thread->call("getpid", SYS_getpid), child.pid());
      } catch (const Error& e) {
        ADD_FAILURE() << "stop " << round << ": " << e.what();
      }
    });
    tracer.join();
  }
  EXPECT_TRUE(child.alive());
  EXPECT_TRUE(starts_again());
  EXPECT_TRUE(starts_again());
}

}  // namespace
}  // namespace ckpt
