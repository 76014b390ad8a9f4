// /dev/ckpt as a program meets it: who may open it and how, the snapshots of CKPT_IOC_SNAPSHOT, and what it tells of
// threads and processes. Runs in the guest (kernel_engine.sh).
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <linux/keyctl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <functional>
#include <string>
#include <vector>

#include "kmod/ckpt_device.h"
#include "target.h"

namespace {

using ckpt_test::address;
using ckpt_test::Child;
using ckpt_test::open_device;

constexpr uint64_t kPage = 4096, kHuge = 2 << 20;

/// The descriptor, or -errno.
int take(int device, pid_t pid, uint32_t reserved = 0) {
  ckpt_snapshot request = {pid, reserved};
  const int fd = ioctl(device, CKPT_IOC_SNAPSHOT, &request);
  return fd < 0 ? -errno : fd;
}

/// 0 or errno.
int runs(int snapshot, uint64_t start, uint64_t end, std::vector<ckpt_run>& found, uint32_t capacity = 16) {
  found.clear();
  for (uint64_t at = start;;) {
    std::vector<ckpt_run> some(capacity);
    ckpt_runs request = {};
    request.start = at;
    request.end = end;
    request.runs = reinterpret_cast<uint64_t>(some.data());
    request.capacity = capacity;
    if (ioctl(snapshot, CKPT_SNAPSHOT_RUNS, &request) != 0) return errno;
    for (uint32_t i = 0; i < request.count; ++i) {
      if (!found.empty() && found.back().end == some[i].start)
        found.back().end = some[i].end;
      else
        found.push_back(some[i]);
    }
    if (request.next == end) return 0;
    EXPECT_EQ(request.count, capacity);
    at = request.next;
  }
}

char* map(uint64_t size) {
  return static_cast<char*>(mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
}

class Device : public testing::Test {
 protected:
  ~Device() override { close(device_); }
  const int device_ = open_device();
};

TEST_F(Device, OneServesAndAnyNumberMayAsk) {
  const int server = open_device(O_RDWR);
  ASSERT_GE(server, 0);
  EXPECT_EQ(open_device(O_RDWR), -1);
  EXPECT_EQ(errno, EBUSY);
  EXPECT_EQ(open_device(O_WRONLY), -1);
  EXPECT_EQ(errno, EINVAL);
  char buffer[4096];
  EXPECT_EQ(read(device_, buffer, sizeof buffer), -1);
  EXPECT_EQ(errno, EINVAL);
  EXPECT_EQ(write(device_, buffer, sizeof(ckpt_answer)), -1);
  EXPECT_EQ(errno, EBADF);
  pollfd ready = {device_, POLLIN, 0};
  EXPECT_EQ(poll(&ready, 1, 0), 1);
  EXPECT_EQ(ready.revents, POLLERR);
  // That one ends, does not end the service of the other.
  close(open_device());
  EXPECT_EQ(open_device(O_RDWR), -1);
  close(server);
  const int again = open_device(O_RDWR);
  EXPECT_GE(again, 0);
  close(again);
}

TEST_F(Device, OfWhomThereIsNoSnapshot) {
  EXPECT_EQ(take(device_, getpid(), 1), -EINVAL);
  for (const pid_t pid : {0, -1, 2, 1 << 22, INT32_MIN}) EXPECT_EQ(take(device_, pid), -ESRCH) << pid;
  const pid_t zombie = fork();
  if (zombie == 0) _exit(0);
  siginfo_t info;
  waitid(P_PID, static_cast<id_t>(zombie), &info, WEXITED | WNOWAIT);
  EXPECT_EQ(take(device_, zombie), -ESRCH);
  waitpid(zombie, nullptr, 0);
  EXPECT_EQ(ioctl(device_, CKPT_IOC_SNAPSHOT, 8), -1);
  EXPECT_EQ(errno, EFAULT);
  EXPECT_EQ(ioctl(device_, CKPT_SNAPSHOT_RUNS, 0), -1);
  EXPECT_EQ(errno, ENOTTY);

  Child faulting([] {
    const int fd = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC));
    uffdio_api api = {UFFD_API, 0, 0};
    uffdio_register all = {{address(map(kPage)), kPage}, UFFDIO_REGISTER_MODE_MISSING, 0};
    if (fd < 0 || ioctl(fd, UFFDIO_API, &api) != 0 || ioctl(fd, UFFDIO_REGISTER, &all) != 0) _exit(1);
  });
  EXPECT_EQ(take(device_, faulting.pid()), -EBUSY);
}

TEST_F(Device, ItTakesTheRightToTrace) {
  Child target([] {});
  Child own([] { static_cast<void>(setresuid(65534, 65534, 65534)); });
  const auto attempt = [&](const std::function<void()>& become, pid_t pid) {
    const pid_t child = fork();
    if (child == 0) {
      become();
      const int result = take(device_, pid);
      _exit(result < 0 ? -result : 0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WEXITSTATUS(status);
  };
  const auto without_ptrace = [] {
    __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct data[2];
    syscall(SYS_capget, &header, data);
    data[0].effective &= ~(1u << CAP_SYS_PTRACE);
    syscall(SYS_capset, &header, data);
  };
  EXPECT_EQ(attempt([] {}, target.pid()), 0);
  EXPECT_EQ(attempt(without_ptrace, target.pid()), EPERM);
  EXPECT_EQ(attempt([] { static_cast<void>(setresuid(65534, 65534, 65534)); }, target.pid()), EPERM);
  EXPECT_EQ(attempt([] { static_cast<void>(setresuid(65534, 65534, 65534)); }, own.pid()), EPERM);
  // All rights in a user namespace of one's own are none outside.
  EXPECT_EQ(attempt([] { unshare(CLONE_NEWUSER); }, target.pid()), EPERM);
  EXPECT_EQ(attempt([] {
              static_cast<void>(setresuid(65534, 65534, 65534));
              _exit(open_device() < 0 ? errno : 0);
            }, target.pid()),
            EACCES);
}

TEST_F(Device, ASnapshotIsOfItsInstant) {
  constexpr uint64_t pages = 1000;
  char* memory = map(pages * kPage);
  char* huge = reinterpret_cast<char*>((address(map(3 * kHuge)) + kHuge - 1) & ~(kHuge - 1));
  Child child([&] {
    madvise(memory, pages * kPage, MADV_NOHUGEPAGE);
    for (uint64_t i = 0; i < pages; i += 2) memory[i * kPage] = static_cast<char>(1 + i % 100);
    for (uint64_t i = 1; i < pages; i += 2) static_cast<void>(*static_cast<volatile char*>(memory + i * kPage));  // zero page
    madvise(huge, kHuge, MADV_HUGEPAGE);
    memset(huge, 'h', kHuge);
  });
  const int snapshot = take(device_, child.pid());
  ASSERT_GE(snapshot, 0) << strerror(-snapshot);
  child.end();

  std::vector<ckpt_run> found, one_by_one;
  ASSERT_EQ(runs(snapshot, address(memory), address(memory) + pages * kPage, found), 0);
  ASSERT_EQ(found.size(), pages / 2);
  for (uint64_t i = 0; i < found.size(); ++i) {
    EXPECT_EQ(found[i].start, address(memory) + 2 * i * kPage);
    EXPECT_EQ(found[i].end, found[i].start + kPage);
  }
  ASSERT_EQ(runs(snapshot, address(memory), address(memory) + pages * kPage, one_by_one, 1), 0);
  EXPECT_EQ(one_by_one.size(), found.size());
  ASSERT_EQ(runs(snapshot, address(huge), address(huge) + kHuge, found, 1), 0);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].end - found[0].start, kHuge);

  std::vector<char> read(pages * kPage);
  ASSERT_EQ(pread(snapshot, read.data(), read.size(), static_cast<off_t>(address(memory))), static_cast<ssize_t>(read.size()));
  for (uint64_t i = 0; i < pages; ++i) {
    EXPECT_EQ(read[i * kPage], i % 2 ? 0 : static_cast<char>(1 + i % 100)) << i;
    EXPECT_EQ(read[i * kPage + 1], 0);
  }
  read.resize(kHuge);
  ASSERT_EQ(pread(snapshot, read.data(), kHuge, static_cast<off_t>(address(huge))), static_cast<ssize_t>(kHuge));
  EXPECT_EQ(read, std::vector<char>(kHuge, 'h'));
  close(snapshot);
}

TEST_F(Device, ASnapshotRefusesWhatIsNoRange) {
  char* memory = map(4 * kPage);
  memory[0] = 1;
  const int snapshot = take(device_, getpid());
  ASSERT_GE(snapshot, 0);
  const uint64_t start = address(memory), top = 1ull << 56;
  std::vector<ckpt_run> found;
  EXPECT_EQ(runs(snapshot, start, start, found), 0);
  EXPECT_TRUE(found.empty());
  EXPECT_EQ(runs(snapshot, start + 1, start + kPage, found), EINVAL);
  EXPECT_EQ(runs(snapshot, start, start + 1, found), EINVAL);
  EXPECT_EQ(runs(snapshot, start + kPage, start, found), EINVAL);
  EXPECT_EQ(runs(snapshot, start, top, found), EINVAL);
  EXPECT_EQ(runs(snapshot, 0xffff888000000000, 0xffff888000001000, found), EINVAL);
  EXPECT_EQ(runs(snapshot, 0, ~0ull << 12, found), EINVAL);
  ckpt_run run;
  const auto ask = [&](ckpt_runs request) { return ioctl(snapshot, CKPT_SNAPSHOT_RUNS, &request) == 0 ? 0 : errno; };
  EXPECT_EQ(ask({start, start + kPage, address(&run), 0, 0, 0}), EINVAL);
  EXPECT_EQ(ask({start, start + kPage, address(&run), 1, 1, 0}), EINVAL);
  EXPECT_EQ(ask({start, start + kPage, address(&run), 1, 0, 1}), EINVAL);
  EXPECT_EQ(ask({start, start + kPage, 8, 1, 0, 0}), EFAULT);
  EXPECT_EQ(ask({start, start + kPage, 0xffff888000000000, 1, 0, 0}), EFAULT);
  EXPECT_EQ(ask({start, start + kPage, address(&run), ~0u, 0, 0}), 0);
  EXPECT_EQ(ioctl(snapshot, CKPT_SNAPSHOT_RUNS, 8), -1);
  EXPECT_EQ(errno, EFAULT);
  EXPECT_EQ(ioctl(snapshot, CKPT_IOC_VERSION, &run), -1);
  EXPECT_EQ(errno, ENOTTY);

  char buffer[2 * kPage];
  const auto read_at = [&](uint64_t at, size_t size, void* to) {
    const long n = syscall(SYS_pread64, snapshot, to, size, at);   // the compiler knows that nothing fits there
    return n < 0 ? -errno : n;
  };
  EXPECT_EQ(read_at(start + 8, kPage, buffer), -EINVAL);
  EXPECT_EQ(read_at(start, 8, buffer), -EINVAL);
  EXPECT_EQ(read_at(top - kPage, kPage, buffer), -EINVAL);
  EXPECT_EQ(read_at(~0ull << 63, kPage, buffer), -EINVAL);
  EXPECT_EQ(read_at(start, kPage, reinterpret_cast<void*>(8)), -EFAULT);
  EXPECT_EQ(read_at(start + kPage, kPage, reinterpret_cast<void*>(8)), -EFAULT);   // zeros go nowhere either
  EXPECT_EQ(read_at(kPage, kPage, buffer), static_cast<ssize_t>(kPage));           // nothing is mapped there
  EXPECT_EQ(buffer[0], 0);
  EXPECT_EQ(write(snapshot, buffer, kPage), -1);
  // In use, and not to be unloaded.
  EXPECT_EQ(syscall(SYS_delete_module, "ckpt", O_NONBLOCK), -1);
  EXPECT_TRUE(errno == EAGAIN || errno == EBUSY || errno == EWOULDBLOCK) << strerror(errno);
  close(snapshot);
}

// ---- facts ----

/// The calling thread's, or -errno.
int facts_of(int device, pid_t tid, ckpt_thread& facts) {
  facts = {};
  facts.tid = tid;
  return ioctl(device, CKPT_IOC_THREAD, &facts) == 0 ? 0 : -errno;
}

int facts_of(int device, pid_t pid, ckpt_process& facts, std::vector<ckpt_timer>& timers) {
  facts = {};
  facts.pid = pid;
  facts.capacity = static_cast<uint32_t>(timers.size());
  facts.timers = address(timers.data());
  return ioctl(device, CKPT_IOC_PROCESS, &facts) == 0 ? 0 : -errno;
}

TEST_F(Device, FactsOfAThreadAreWhatItWouldLearnItself) {
  ckpt_thread facts;
  ASSERT_EQ(facts_of(device_, gettid(), facts), 0);
  EXPECT_EQ(facts.altstack_flags, static_cast<uint32_t>(SS_DISABLE));
  static char stack[65536];
  const stack_t own = {stack, 0, sizeof stack};
  ASSERT_EQ(sigaltstack(&own, nullptr), 0);
  prctl(PR_SET_PDEATHSIG, SIGUSR2);
  prctl(PR_SET_TIMERSLACK, 123456);
  prctl(PR_SET_TSC, PR_TSC_SIGSEGV);
  const int asked = facts_of(device_, gettid(), facts);
  prctl(PR_SET_TSC, PR_TSC_ENABLE);
  prctl(PR_SET_PDEATHSIG, 0);
  const stack_t none = {nullptr, SS_DISABLE, 0};
  sigaltstack(&none, nullptr);
  ASSERT_EQ(asked, 0);
  EXPECT_EQ(facts.altstack, address(stack));
  EXPECT_EQ(facts.altstack_size, sizeof stack);
  EXPECT_EQ(facts.altstack_flags, 0u);
  EXPECT_EQ(facts.parent_death_signal, SIGUSR2);
  EXPECT_EQ(facts.timer_slack_ns, 123456u);
  EXPECT_EQ(facts.flags, static_cast<uint32_t>(CKPT_THREAD_NO_TSC));
  uint64_t word = 0;
  prctl(PR_GET_TID_ADDRESS, &word, 0, 0, 0);
  EXPECT_EQ(facts.clear_child_tid, word);
  EXPECT_EQ(facts.securebits, static_cast<uint32_t>(prctl(PR_GET_SECUREBITS)));
  for (int i = 0; i < CKPT_SPECULATIONS; ++i) {
    const int state = prctl(PR_GET_SPECULATION_CTRL, i, 0, 0, 0);
    EXPECT_EQ(facts.speculation[i], state < 0 ? -errno : state) << i;
  }
}

TEST_F(Device, FactsOfAProcessAreWhatItWouldLearnItself) {
  signal(SIGUSR1, [](int) {});
  signal(SIGUSR2, SIG_IGN);
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
  const auto set = [](int which) {
    const itimerval timer = {{7, 0}, {1000, 500000}};
    setitimer(which, &timer, nullptr);
  };
  for (const int which : {ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF}) set(which);
  sigevent quiet = {};
  quiet.sigev_notify = SIGEV_NONE;
  timer_t real, cpu, idle;
  ASSERT_EQ(timer_create(CLOCK_MONOTONIC, &quiet, &real), 0);
  ASSERT_EQ(timer_create(CLOCK_PROCESS_CPUTIME_ID, &quiet, &cpu), 0);
  ASSERT_EQ(timer_create(CLOCK_REALTIME, &quiet, &idle), 0);
  const itimerspec setting = {{3, 5}, {2000, 0}};
  timer_settime(real, 0, &setting, nullptr);
  timer_settime(cpu, 0, &setting, nullptr);

  ckpt_process facts;
  std::vector<ckpt_timer> timers(2);
  EXPECT_EQ(facts_of(device_, getpid(), facts, timers), -ENOSPC);
  timers.resize(9);
  ASSERT_EQ(facts_of(device_, getpid(), facts, timers), 0);
  EXPECT_EQ(facts.count, 3u);
  for (uint32_t i = 0; i < facts.count; ++i) {
    const bool armed = timers[i].id != static_cast<int>(reinterpret_cast<intptr_t>(idle));
    EXPECT_EQ(timers[i].interval_ns, armed ? 3'000'000'005u : 0u) << timers[i].id;
    EXPECT_LE(timers[i].value_ns, armed ? 2000'000'000'000u : 0u);
    EXPECT_GE(timers[i].value_ns, armed ? 1000'000'000'000u : 0u);
  }
  for (const int which : {ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF}) {
    EXPECT_EQ(facts.intervals[which].interval_ns, 7'000'000'000u) << which;
    EXPECT_GE(facts.intervals[which].value_ns, 500'000'000'000u) << which;
    EXPECT_LE(facts.intervals[which].value_ns, 1000'600'000'000u) << which;
    const itimerval off = {};
    setitimer(which, &off, nullptr);
  }
  for (const timer_t timer : {real, cpu, idle}) timer_delete(timer);
  EXPECT_EQ(facts.flags, static_cast<uint32_t>(CKPT_PROCESS_SUBREAPER | CKPT_PROCESS_THP_DISABLED));
  prctl(PR_SET_CHILD_SUBREAPER, 0);
  prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0);
  EXPECT_EQ(facts.brk, static_cast<uint64_t>(syscall(SYS_brk, 0)));
  EXPECT_EQ(facts.dumpable, static_cast<uint32_t>(prctl(PR_GET_DUMPABLE)));
  for (int signo = 1; signo <= 64; ++signo) {
    ckpt_action action = {};
    ASSERT_EQ(syscall(SYS_rt_sigaction, signo, nullptr, &action, 8), 0);
    EXPECT_EQ(memcmp(&action, &facts.actions[signo - 1], sizeof action), 0) << signo;
  }
  signal(SIGUSR1, SIG_DFL);
  signal(SIGUSR2, SIG_DFL);
  ASSERT_EQ(facts_of(device_, getpid(), facts, timers), 0);
  EXPECT_EQ(facts.count + facts.flags + facts.intervals[0].value_ns + facts.intervals[1].interval_ns, 0u);
}

TEST_F(Device, FactsOfKeysAndOfMemoryToCome) {
  struct Own {
    long thread, session, protection;
  };
  void* shared = mmap(nullptr, sizeof(Own), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  auto& own = *new (shared) Own();
  const Child plain([] {});
  const Child child([&own] {
    static_cast<void>(mlockall(MCL_FUTURE | MCL_ONFAULT));
    own.session = syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, nullptr);
    own.thread = syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_THREAD_KEYRING, 1);
    own.protection = syscall(SYS_pkey_alloc, 0, 0);
  });
  ckpt_thread thread;
  ckpt_process process;
  std::vector<ckpt_timer> timers(1);
  ASSERT_EQ(facts_of(device_, child.pid(), thread), 0);
  ASSERT_EQ(facts_of(device_, child.pid(), process, timers), 0);
  EXPECT_GT(own.session, 0);
  EXPECT_EQ(thread.session_keyring, own.session);
  EXPECT_GT(own.thread, 0);
  EXPECT_EQ(thread.thread_keyring, own.thread);
  EXPECT_EQ(thread.process_keyring, 0);
  EXPECT_EQ(process.flags, static_cast<uint32_t>(CKPT_PROCESS_LOCK_FUTURE | CKPT_PROCESS_LOCK_ON_FAULT));
  EXPECT_EQ(process.protection_keys, own.protection < 0 ? 0u : 1u | 1u << own.protection);
  ASSERT_EQ(facts_of(device_, plain.pid(), thread), 0);
  ASSERT_EQ(facts_of(device_, plain.pid(), process, timers), 0);
  EXPECT_EQ(thread.session_keyring, 0);
  EXPECT_EQ(thread.thread_keyring, 0);
  EXPECT_EQ(process.flags, 0u);
  munmap(shared, sizeof(Own));
}

TEST_F(Device, OfWhomThereAreNoFacts) {
  ckpt_thread thread;
  ckpt_process process;
  std::vector<ckpt_timer> timers(4);
  for (const pid_t pid : {0, -1, 2, 1 << 22}) {
    EXPECT_EQ(facts_of(device_, pid, thread), -ESRCH) << pid;
    EXPECT_EQ(facts_of(device_, pid, process, timers), -ESRCH) << pid;
  }
  thread = {};
  thread.tid = gettid();
  thread.speculation[2] = 1;
  EXPECT_EQ(ioctl(device_, CKPT_IOC_THREAD, &thread), -1);
  EXPECT_EQ(errno, EINVAL);
  process = {};
  process.pid = getpid();
  process.capacity = 65537;
  EXPECT_EQ(ioctl(device_, CKPT_IOC_PROCESS, &process), -1);
  EXPECT_EQ(errno, EINVAL);
  process.capacity = 0;
  process.actions[63].mask = 1;
  EXPECT_EQ(ioctl(device_, CKPT_IOC_PROCESS, &process), -1);
  EXPECT_EQ(errno, EINVAL);
  EXPECT_EQ(ioctl(device_, CKPT_IOC_PROCESS, 8), -1);
  EXPECT_EQ(errno, EFAULT);
  EXPECT_EQ(ioctl(device_, CKPT_IOC_THREAD, 8), -1);
  EXPECT_EQ(errno, EFAULT);
  const pid_t child = fork();
  if (child == 0) {
    // The open device lends no rights.
    static_cast<void>(!setresuid(65534, 65534, 65534));
    const int results[] = {facts_of(device_, getppid(), thread), facts_of(device_, getppid(), process, timers)};
    _exit(results[0] == -EPERM && results[1] == -EPERM ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
}

/// As a 32-bit program calls it.
long ioctl32(int fd, unsigned command, const void* low) {
  long result = 54;   // __NR_ioctl of i386
  asm volatile("int $0x80" : "+a"(result) : "b"(fd), "c"(command), "d"(address(low)) : "memory", "r8", "r9", "r10", "r11");
  return static_cast<int>(result);
}

TEST_F(Device, A32BitProgramMeetsTheSame) {
  char* low = static_cast<char*>(mmap(nullptr, 2 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0));
  ASSERT_LT(address(low), 1ull << 32);
  const __u32 version = CKPT_DEVICE_VERSION;
  memcpy(low, &version, sizeof version);
  EXPECT_EQ(ioctl32(device_, CKPT_IOC_VERSION, low), 0);
  auto* request = new (low) ckpt_snapshot{getpid(), 0};
  const long snapshot = ioctl32(device_, CKPT_IOC_SNAPSHOT, request);
  ASSERT_GE(snapshot, 0) << strerror(static_cast<int>(-snapshot));
  request->reserved = 1;
  EXPECT_EQ(ioctl32(device_, CKPT_IOC_SNAPSHOT, request), -EINVAL);
  auto* ask = new (low) ckpt_runs{address(low), address(low) + 2 * kPage, address(low) + kPage, 4, 0, 0};
  ASSERT_EQ(ioctl32(static_cast<int>(snapshot), CKPT_SNAPSHOT_RUNS, ask), 0);
  ckpt_run run;
  memcpy(&run, low + kPage, sizeof run);
  EXPECT_EQ(ask->count, 1u);
  EXPECT_EQ(run.start, address(low));
  EXPECT_EQ(run.end, address(low) + kPage);
  close(static_cast<int>(snapshot));
  munmap(low, 2 * kPage);
}

}  // namespace
