// CKPT_IOC_STOP of /dev/ckpt: threads that stand still, what is told of them, and that they go on as if nothing had been.
// Runs in the guest (kernel_engine.sh).
#include <errno.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/user.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "kmod/ckpt_device.h"
#include "mount.h"
#include "target.h"

namespace ckpt_test {
namespace {

/// What a child and its test both see.
struct Common {
  std::atomic<uint64_t> turns{0}, word{0};
  std::atomic<pid_t> pid{0};
};

/// Threads that are asked to stand still, until the object goes.
class Stop {
 public:
  Stop(int device, pid_t pid, uint32_t reserved = 0) {
    const ckpt_stop request = {pid, reserved};
    fd_ = ioctl(device, CKPT_IOC_STOP, &request);
    error_ = fd_ < 0 ? errno : 0;
  }
  ~Stop() { end(); }
  Stop(const Stop&) = delete;
  Stop& operator=(const Stop&) = delete;

  int fd() const { return fd_; }
  int error() const { return error_; }
  /// 0 or errno.
  int wait(uint32_t milliseconds = 60'000) const {
    const ckpt_stop_wait request = {milliseconds, 0};
    return ask(CKPT_STOP_WAIT, &request);
  }
  int ask(unsigned long command, const void* argument) const { return ioctl(fd_, command, argument) == 0 ? 0 : errno; }
  std::set<pid_t> threads() const {
    std::vector<pid_t> tids(100);
    ckpt_stop_threads request = {address(tids.data()), 100, 0};
    EXPECT_EQ(ask(CKPT_STOP_THREADS, &request), 0);
    return {tids.begin(), tids.begin() + request.count};
  }
  int state(pid_t tid, ckpt_thread_state& state) {
    state = {};
    state.tid = tid;
    state.xsave = address(xsave_.data());
    state.xsave_size = static_cast<uint32_t>(xsave_.size());
    return ask(CKPT_STOP_STATE, &state);
  }
  user_regs_struct registers(pid_t tid) {
    ckpt_thread_state told;
    EXPECT_EQ(state(tid, told), 0);
    user_regs_struct registers;
    memcpy(&registers, told.registers, sizeof registers);
    return registers;
  }
  const std::vector<char>& xsave() const { return xsave_; }
  int pending(pid_t tid, std::vector<siginfo_t>& infos) const {
    ckpt_pending request = {tid, static_cast<uint32_t>(infos.size()), address(infos.data()), 0, 0};
    const int error = ask(CKPT_STOP_PENDING, &request);
    infos.resize(request.count);
    return error;
  }
  int go_on(pid_t tid, const user_regs_struct& registers) const {
    const ckpt_go_on request = {tid, 0, registers.rax, registers.rip, registers.orig_rax};
    return ask(CKPT_STOP_GO_ON, &request);
  }
  void end() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }

 private:
  int fd_ = -1, error_ = 0;
  std::vector<char> xsave_ = std::vector<char>(65536);
};

std::set<pid_t> tasks_of(pid_t pid) {
  std::set<pid_t> tids;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/task")) {
    tids.insert(std::stoi(entry.path().filename()));
  }
  return tids;
}

void* in_thread(void (*body)(Common*), Common* common) {
  pthread_t thread;
  struct Start {
    void (*body)(Common*);
    Common* common;
  };
  pthread_create(&thread, nullptr, [](void* start) -> void* {
    const std::unique_ptr<Start> own(static_cast<Start*>(start));
    own->body(own->common);
    return nullptr;
  }, new Start{body, common});
  return nullptr;
}

class Stops : public testing::Test {
 protected:
  ~Stops() override {
    close(device_);
    munmap(common_, sizeof *common_);
  }
  /// The child is busy again.
  bool goes_on() const {
    const uint64_t before = common_->turns;
    return wait_until([&] { return common_->turns > before + 1; });
  }

  const int device_ = open_device();
  Common* const common_ = new (mmap(nullptr, sizeof(Common), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)) Common;
};

void count(Common* common) {
  for (;;) ++common->turns;
}

TEST_F(Stops, AllThreadsStandAndGoOn) {
  const Child child([this] {
    in_thread(count, common_);
    in_thread([](Common*) { for (;;) usleep(100); }, common_);
    in_thread([](Common*) { for (;;) pause(); }, common_);
  });
  for (int turn = 0; turn < 10; ++turn) {
    Stop stop(device_, child.pid());
    ASSERT_EQ(stop.error(), 0);
    ASSERT_EQ(stop.wait(), 0);
    EXPECT_EQ(stop.threads(), tasks_of(child.pid()));
    EXPECT_EQ(stop.threads().size(), 4u);
    const uint64_t turns = common_->turns;
    for (int i = 0; i < 100; ++i) sched_yield();
    EXPECT_EQ(common_->turns, turns);
    stop.end();
    EXPECT_TRUE(goes_on());
  }
}

TEST_F(Stops, NoneIsLeftOutThatIsBornMeanwhile) {
  const Child child([this] {
    for (int i = 0; i < 2; ++i) {
      in_thread([](Common* common) {
        for (;;) {
          pthread_t thread;
          if (pthread_create(&thread, nullptr, [](void*) -> void* { return nullptr; }, nullptr) == 0) pthread_join(thread, nullptr);
          ++common->turns;
        }
      }, common_);
    }
  });
  for (int turn = 0; turn < 30; ++turn) {
    Stop stop(device_, child.pid());
    ASSERT_EQ(stop.error(), 0);
    ASSERT_EQ(stop.wait(), 0);
    const uint64_t turns = common_->turns;
    // By name: a list of threads would end where one of those ends that have made way for the next.
    const std::string tasks = "/proc/" + std::to_string(child.pid()) + "/task/";
    for (const pid_t tid : stop.threads()) EXPECT_TRUE(exists(tasks + std::to_string(tid))) << tid;
    EXPECT_GE(stop.threads().size(), 3u);
    EXPECT_EQ(common_->turns, turns);
    stop.end();
    EXPECT_TRUE(goes_on());
  }
}

TEST_F(Stops, StateIsWhatTheThreadHas) {
  const Child child([this] {
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR2);
    sigprocmask(SIG_SETMASK, &mask, nullptr);
    in_thread([](Common* common) {
      common->word = address(__builtin_thread_pointer()) + static_cast<uint64_t>(__rseq_offset);
      common->pid = gettid();
      asm volatile(
          "movabs $0x1122334455667788, %%rbx\n movabs $0x8877665544332211, %%r12\n"
          "movq %%rbx, %%xmm7\n 1: lock incq %0\n jmp 1b" : "+m"(common->turns) : : "rbx", "r12", "xmm7");
    }, common_);
  });
  ASSERT_TRUE(goes_on());
  Stop stop(device_, child.pid());
  ASSERT_EQ(stop.wait(), 0);
  const pid_t tid = common_->pid;
  const user_regs_struct registers = stop.registers(tid);
  EXPECT_EQ(registers.rbx, 0x1122334455667788u);
  EXPECT_EQ(registers.r12, 0x8877665544332211u);
  EXPECT_EQ(static_cast<int64_t>(registers.orig_rax), -1);
  EXPECT_NE(registers.fs_base, 0u);
  ckpt_thread_state state;
  ASSERT_EQ(stop.state(tid, state), 0);
  EXPECT_EQ(state.signal_mask, 1ull << (SIGUSR2 - 1));
  EXPECT_EQ(state.rseq, common_->word.load());
  EXPECT_GE(state.rseq_size, 32u);
  uint64_t xmm7 = 0;
  ASSERT_GE(state.xsave_size, 576u);
  memcpy(&xmm7, stop.xsave().data() + 160 + 7 * 16, sizeof xmm7);
  EXPECT_EQ(xmm7, 0x1122334455667788u);
  state = {};
  state.tid = tid;
  state.xsave_size = 575;
  EXPECT_EQ(stop.ask(CKPT_STOP_STATE, &state), ENOSPC);
  state.xsave_size = 65536;
  state.xsave = 8;
  EXPECT_EQ(stop.ask(CKPT_STOP_STATE, &state), EFAULT);
  state.signal_mask = 1;
  EXPECT_EQ(stop.ask(CKPT_STOP_STATE, &state), EINVAL);
  EXPECT_EQ(stop.state(1, state), ESRCH);
}

TEST_F(Stops, SystemCallsGoOnAsIfNothingHadBeen) {
  int in[2];
  ASSERT_EQ(pipe(in), 0);
  const Child child([this, &in] {
    in_thread(count, common_);
    pthread_t thread;
    static int from = in[0];
    pthread_create(&thread, nullptr, [](void* common) -> void* {
      auto* const told = static_cast<Common*>(common);
      told->pid = gettid();
      char c = 0;
      told->word = read(from, &c, 1) == 1 ? static_cast<uint64_t>(c) : 0x100u + static_cast<unsigned>(errno);
      const int epoll = epoll_create1(0);
      epoll_event event = {EPOLLIN, {}};
      epoll_ctl(epoll, EPOLL_CTL_ADD, from, &event);
      const int n = epoll_wait(epoll, &event, 1, -1);
      told->word = n == 1 ? 1u : 0x200u + static_cast<unsigned>(errno);
      return nullptr;
    }, common_);
  });
  const auto waits_in = [&](const char* call) {
    const std::string text = "/proc/" + std::to_string(child.pid()) + "/task/" + std::to_string(common_->pid.load()) + "/syscall";
    return wait_until([&] { return read_file(text).starts_with(call); });
  };
  ASSERT_TRUE(wait_until([&] { return common_->pid != 0; }));
  ASSERT_TRUE(waits_in("0 "));
  for (int turn = 0; turn < 3; ++turn) {
    Stop stop(device_, child.pid());
    ASSERT_EQ(stop.wait(), 0);
    const user_regs_struct registers = stop.registers(common_->pid);
    EXPECT_EQ(static_cast<int64_t>(registers.rax), -512);   // -ERESTARTSYS
    EXPECT_EQ(registers.orig_rax, static_cast<uint64_t>(SYS_read));
    stop.end();
    ASSERT_TRUE(waits_in("0 "));
  }
  EXPECT_EQ(write(in[1], "w", 1), 1);
  EXPECT_TRUE(wait_until([&] { return common_->word == 'w'; })) << common_->word;
  // One that fails at any interruption is begun again, and goes on as it is told to.
  ASSERT_TRUE(waits_in("232 "));
  for (const bool changed : {false, true}) {
    Stop stop(device_, child.pid());
    ASSERT_EQ(stop.wait(), 0);
    user_regs_struct registers = stop.registers(common_->pid);
    EXPECT_EQ(static_cast<int64_t>(registers.rax), -514);   // -ERESTARTNOHAND
    EXPECT_EQ(registers.orig_rax, static_cast<uint64_t>(SYS_epoll_wait));
    if (changed) {
      registers.rax = static_cast<unsigned long long>(-EXDEV);
      EXPECT_EQ(stop.go_on(common_->pid, registers), 0);
      registers.rip = 1ull << 63;
      EXPECT_EQ(stop.go_on(common_->pid, registers), EINVAL);
      EXPECT_EQ(stop.go_on(1, {}), ESRCH);
    }
    stop.end();
    if (!changed) {
      ASSERT_TRUE(waits_in("232 "));
    }
  }
  EXPECT_TRUE(wait_until([&] { return common_->word == 0x200 + EXDEV; })) << common_->word;
  close(in[0]);
  close(in[1]);
}

TEST_F(Stops, SignalsWaitAndAreTold) {
  const Child child([this] {
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGRTMIN);
    sigprocmask(SIG_SETMASK, &mask, nullptr);
    signal(SIGUSR1, [](int) {});
    in_thread(count, common_);
  });
  for (int i = 1; i <= 3; ++i) {
    sigval value = {};
    value.sival_int = 40 + i;
    ASSERT_EQ(sigqueue(child.pid(), SIGRTMIN, value), 0);
  }
  Stop stop(device_, child.pid());
  ASSERT_EQ(stop.wait(), 0);
  ASSERT_EQ(syscall(SYS_tgkill, child.pid(), child.pid(), SIGUSR1), 0);
  std::vector<siginfo_t> infos(2);
  EXPECT_EQ(stop.pending(0, infos), ENOSPC);
  infos.assign(9, siginfo_t{});
  memset(infos.data(), 0xff, 9 * sizeof(siginfo_t));
  ASSERT_EQ(stop.pending(0, infos), 0);
  ASSERT_EQ(infos.size(), 3u);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(infos[static_cast<size_t>(i)].si_signo, SIGRTMIN);
    EXPECT_EQ(infos[static_cast<size_t>(i)].si_value.sival_int, 41 + i);
    EXPECT_EQ(infos[static_cast<size_t>(i)].si_pid, getpid());
    EXPECT_EQ(reinterpret_cast<const char*>(&infos[static_cast<size_t>(i)])[127], 0);
  }
  infos.assign(1, siginfo_t{});
  ASSERT_EQ(stop.pending(child.pid(), infos), 0);
  ASSERT_EQ(infos.size(), 1u);
  EXPECT_EQ(infos[0].si_signo, SIGUSR1);
  EXPECT_EQ(infos[0].si_code, SI_TKILL);
  ckpt_pending nonsense = {0, 65537, 0, 0, 0};
  EXPECT_EQ(stop.ask(CKPT_STOP_PENDING, &nonsense), EINVAL);
  nonsense = {0, 3, 8, 0, 0};
  EXPECT_EQ(stop.ask(CKPT_STOP_PENDING, &nonsense), EFAULT);
  stop.end();
  EXPECT_TRUE(goes_on());
}

TEST_F(Stops, WhoIsKilledEnds) {
  const Child child([this] { in_thread(count, common_); });
  Stop stop(device_, child.pid());
  ASSERT_EQ(stop.wait(), 0);
  kill(child.pid(), SIGKILL);
  siginfo_t info;
  ASSERT_EQ(waitid(P_PID, static_cast<id_t>(child.pid()), &info, WEXITED | WNOWAIT), 0);
  EXPECT_EQ(stop.wait(), ESRCH);
  EXPECT_TRUE(stop.threads().empty());
  ckpt_thread_state state;
  EXPECT_EQ(stop.state(child.pid(), state), ESRCH);
}

TEST_F(Stops, TheEndOfWhoStoppedLetsGo) {
  const Child child([this] { in_thread(count, common_); });
  pid_t heir = 0;
  {
    // Another one has the descriptor too.
    const Child stopper([&] {
      Stop* const stop = new Stop(device_, child.pid());
      if (stop->wait() != 0) _exit(1);
      const pid_t pid = fork();
      if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, 0);
        close_range(0, static_cast<unsigned>(stop->fd()) - 1, 0);
        close_range(static_cast<unsigned>(stop->fd()) + 1, ~0u, 0);
        for (;;) pause();
      }
      common_->pid = pid;
    });
    heir = common_->pid;
    const uint64_t turns = common_->turns;
    for (int i = 0; i < 100; ++i) sched_yield();
    EXPECT_EQ(common_->turns, turns);
  }
  EXPECT_TRUE(goes_on());
  ASSERT_GT(heir, 0);
  kill(heir, SIGKILL);
}

TEST_F(Stops, AProgramThatChangesIsNotStoppedAsAnother) {
  const Child child([this] {
    in_thread([](Common*) { for (;;) usleep(50); }, common_);
    close_range(3, ~0u, 0);
    execl("/proc/self/exe", "stop_test", "--exec-for-ever", nullptr);
  });
  int stopped = 0;
  for (int turn = 0; turn < 2000 && (turn < 100 || stopped == 0); ++turn) {
    Stop stop(device_, child.pid());
    ASSERT_EQ(stop.error(), 0);
    const int result = stop.wait();
    ASSERT_TRUE(result == 0 || result == EAGAIN) << strerror(result);
    stopped += result == 0;
  }
  EXPECT_GT(stopped, 0);
}

TEST_F(Stops, WhoDoesNotComeIsWaitedForAsLongAsAsked) {
  const Child child([this] { in_thread(count, common_); });
  kill(child.pid(), SIGSTOP);
  ASSERT_TRUE(wait_until([&] { return read_file("/proc/" + std::to_string(child.pid()) + "/stat").find(" T ") != std::string::npos; }));
  {
    const Stop stop(device_, child.pid());
    ASSERT_EQ(stop.error(), 0);
    EXPECT_EQ(stop.wait(10), ETIMEDOUT);
  }
  kill(child.pid(), SIGCONT);
  EXPECT_TRUE(goes_on());
  const Stop again(device_, child.pid());
  EXPECT_EQ(again.wait(), 0);
}

TEST_F(Stops, OneAfterTheOther) {
  const Child child([this] { in_thread(count, common_); });
  Stop first(device_, child.pid());
  ASSERT_EQ(first.wait(), 0);
  const Stop second(device_, child.pid());
  EXPECT_EQ(second.wait(10), ETIMEDOUT);
  first.end();
  EXPECT_EQ(second.wait(), 0);
  EXPECT_EQ(second.threads().size(), 2u);
  // In use, and not to be unloaded.
  EXPECT_EQ(syscall(SYS_delete_module, "ckpt", O_NONBLOCK), -1);
}

TEST_F(Stops, WhomThereIsNoStopOf) {
  EXPECT_EQ(Stop(device_, getpid()).error(), EINVAL);
  EXPECT_EQ(Stop(device_, getppid(), 1).error(), EINVAL);
  for (const pid_t pid : {0, -1, 2, 1 << 22}) EXPECT_EQ(Stop(device_, pid).error(), ESRCH) << pid;
  EXPECT_EQ(ioctl(device_, CKPT_IOC_STOP, 8), -1);
  EXPECT_EQ(errno, EFAULT);
  Child child([] {});
  const pid_t other = fork();
  if (other == 0) {
    static_cast<void>(!setresuid(65534, 65534, 65534));
    _exit(Stop(device_, child.pid()).error());
  }
  int status = 0;
  waitpid(other, &status, 0);
  EXPECT_EQ(WEXITSTATUS(status), EPERM);
  const Stop stop(device_, child.pid());
  ASSERT_EQ(stop.wait(), 0);
  const ckpt_stop_wait nonsense = {0, 1};
  EXPECT_EQ(stop.ask(CKPT_STOP_WAIT, &nonsense), EINVAL);
  EXPECT_EQ(stop.ask(CKPT_STOP_WAIT, reinterpret_cast<void*>(8)), EFAULT);
  ckpt_stop_threads none = {0, 0, 0};
  EXPECT_EQ(stop.ask(CKPT_STOP_THREADS, &none), ENOSPC);
  none = {8, 4, 0};
  EXPECT_EQ(stop.ask(CKPT_STOP_THREADS, &none), EFAULT);
  EXPECT_EQ(stop.ask(CKPT_SNAPSHOT_RUNS, &none), ENOTTY);
}

}  // namespace
}  // namespace ckpt_test

int main(int argc, char** argv) {
  if (argc == 2 && strcmp(argv[1], "--exec-for-ever") == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    std::thread([] { for (;;) usleep(50); }).detach();
    execv("/proc/self/exe", argv);
    return 1;
  }
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
