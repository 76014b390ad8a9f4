// SIGCKPT and SIGCKPTEXIT with the kernel module loaded: their default action, and that every other state of a signal keeps
// its ordinary meaning. Runs in the guest (signals.sh).
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <memory>
#include <thread>

#include "kmod/ckpt_device.h"
#include "libckpt/ckpt.h"
#include "mount.h"

namespace ckpt_test {
namespace {

/// A child of ours that runs `body`.
class Child {
 public:
  explicit Child(const std::function<void(Child&)>& body) {
    EXPECT_EQ(pipe(ready_), 0);
    pid_ = fork();
    if (pid_ == 0) {
      for (int i = 0; i < 3; ++i) dup2(open("/dev/null", O_RDWR), i);
      setsid();
      dup2(ready_[1], 3);
      close_range(4, ~0u, 0);
      body(*this);
      _exit(0);
    }
    close(ready_[1]);
    ready_[1] = -1;
  }
  ~Child() {
    if (!reaped_) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    close(ready_[0]);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  /// In the child: says so, by a pipe that is closed then, since it leads outside.
  void ready() {
    static_cast<void>(!write(3, "r", 1));
    close(3);
  }
  bool wait_ready() {
    char c = 0;
    return read(ready_[0], &c, 1) == 1 && read(ready_[0], &c, 1) == 0;
  }
  pid_t pid() const { return pid_; }
  void signal(int signo) const { kill(pid_, signo); }
  int wait_end() {
    int status = 0;
    const bool ended = wait_until([&] { return waitpid(pid_, &status, WNOHANG) == pid_; });
    EXPECT_TRUE(ended);
    reaped_ = ended;
    return status;
  }
  bool running() const { return waitpid(pid_, nullptr, WNOHANG) == 0; }

 private:
  int ready_[2] = {-1, -1};
  pid_t pid_ = -1;
  bool reaped_ = false;
};

void be_paused(Child& child) {
  child.ready();
  for (;;) pause();
}

class Signals : public testing::Test {
 protected:
  bool has_image(pid_t pid) const { return exists(mount_->path("images/" + std::to_string(pid) + "/manifest")); }
  bool wait_image(pid_t pid) const {
    const bool there = wait_until([&] { return has_image(pid); });
    EXPECT_TRUE(there) << read_file(mount_->path("ctl"));
    return there;
  }
  /// All that was sent before has been dealt with when this has come back: the queue is served in order.
  void pass_queue() const {
    Child probe(be_paused);
    ASSERT_TRUE(probe.wait_ready());
    probe.signal(SIGCKPT);
    wait_image(probe.pid());
  }

  std::unique_ptr<Mount> mount_ = std::make_unique<Mount>();
};

TEST_F(Signals, CheckpointsAndGoesOn) {
  Child child(be_paused);
  ASSERT_TRUE(child.wait_ready());
  child.signal(SIGCKPT);
  ASSERT_TRUE(wait_image(child.pid()));
  EXPECT_TRUE(child.running());
  child.signal(SIGCKPT);
  EXPECT_TRUE(wait_until([&] { return exists(mount_->path("images/" + std::to_string(child.pid()) + "@1")); }));
  EXPECT_TRUE(child.running());
}

TEST_F(Signals, CheckpointsAndExitsByTheSignalAndIsResumed) {
  Child child(be_paused);
  ASSERT_TRUE(child.wait_ready());
  child.signal(SIGCKPTEXIT);
  const int status = child.wait_end();
  EXPECT_TRUE(WIFSIGNALED(status)) << status;
  EXPECT_EQ(WTERMSIG(status), SIGCKPTEXIT);
  ASSERT_TRUE(has_image(child.pid()));
  const Outcome outcome = mount_->command("restore " + std::to_string(child.pid()));
  ASSERT_EQ(outcome.error, 0) << outcome.sentence;
  EXPECT_EQ(kill(child.pid(), 0), 0);
  // The resumed process meets the same action: it is a new one.
  kill(child.pid(), SIGCKPT);
  EXPECT_TRUE(wait_until([&] { return exists(mount_->path("images/" + std::to_string(child.pid()) + "@1")); }));
  kill(child.pid(), SIGKILL);
}

TEST_F(Signals, OfManyThreads) {
  Child child([](Child& self) {
    for (int i = 0; i < 8; ++i) std::thread([] { for (;;) usleep(100); }).detach();
    be_paused(self);
  });
  ASSERT_TRUE(child.wait_ready());
  // Real-time signals queue: each gives an image, whichever thread takes it, and whatever the others are doing.
  constexpr int kSignals = 20;
  for (int i = 0; i < kSignals; ++i) child.signal(SIGCKPT);
  const std::string last = mount_->path("images/" + std::to_string(child.pid()) + "@" + std::to_string(kSignals - 1));
  EXPECT_TRUE(wait_until([&] { return exists(last); }, std::chrono::seconds(300))) << read_file(mount_->path("ctl"));
  EXPECT_TRUE(child.running());
  EXPECT_NE(read_file("/proc/" + std::to_string(child.pid()) + "/status").find("Threads:\t9\n"), std::string::npos);
}

volatile sig_atomic_t caught;

TEST_F(Signals, CaughtIgnoredAndWaitedForAreOrdinary) {
  Child catching([](Child& self) {
    signal(SIGCKPT, [](int) { caught = 1; });
    self.ready();
    while (!caught) usleep(1000);
    _exit(10);
  });
  Child ignoring([](Child& self) {
    signal(SIGCKPT, SIG_IGN);
    signal(SIGCKPTEXIT, SIG_IGN);
    be_paused(self);
  });
  sigset_t ours;
  sigemptyset(&ours);
  sigaddset(&ours, SIGCKPT);
  Child waiting([ours](Child& self) {
    sigprocmask(SIG_BLOCK, &ours, nullptr);
    self.ready();
    siginfo_t info = {};
    _exit(sigwaitinfo(&ours, &info) == SIGCKPT && info.si_code == SI_USER ? 11 : 1);
  });
  Child reading([ours](Child& self) {
    sigprocmask(SIG_BLOCK, &ours, nullptr);
    const int fd = signalfd(-1, &ours, 0);
    self.ready();
    signalfd_siginfo info = {};
    _exit(read(fd, &info, sizeof info) == sizeof info && info.ssi_signo == SIGCKPT ? 12 : 1);
  });
  for (Child* child : {&catching, &ignoring, &waiting, &reading}) {
    ASSERT_TRUE(child->wait_ready());
    child->signal(SIGCKPT);
  }
  ignoring.signal(SIGCKPTEXIT);
  EXPECT_EQ(WEXITSTATUS(catching.wait_end()), 10);
  EXPECT_EQ(WEXITSTATUS(waiting.wait_end()), 11);
  EXPECT_EQ(WEXITSTATUS(reading.wait_end()), 12);
  pass_queue();
  EXPECT_TRUE(ignoring.running());
  for (Child* child : {&catching, &ignoring, &waiting, &reading}) EXPECT_FALSE(has_image(child->pid()));
}

TEST_F(Signals, BlockedComesWhenItIsUnblocked) {
  Child child([](Child& self) {
    sigset_t ours, usr1;
    sigemptyset(&ours);
    sigaddset(&ours, SIGCKPT);
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    sigprocmask(SIG_BLOCK, &ours, nullptr);
    sigprocmask(SIG_BLOCK, &usr1, nullptr);
    self.ready();
    int signo = 0;
    sigwait(&usr1, &signo);
    sigprocmask(SIG_UNBLOCK, &ours, nullptr);
    for (;;) pause();
  });
  ASSERT_TRUE(child.wait_ready());
  child.signal(SIGCKPT);
  pass_queue();
  EXPECT_FALSE(has_image(child.pid()));
  EXPECT_TRUE(child.running());
  child.signal(SIGUSR1);
  EXPECT_TRUE(wait_image(child.pid()));
  EXPECT_TRUE(child.running());
}

TEST_F(Signals, AnotherUsersProcessIsHisOwnAndAChangedOneIsRefused) {
  Child plain([](Child& self) {
    if (setresgid(1001, 1001, 1001) != 0 || setresuid(1001, 1001, 1001) != 0) _exit(1);
    prctl(PR_SET_DUMPABLE, 1);
    be_paused(self);
  });
  Child changed([](Child& self) {
    if (setresuid(1001, 1002, 1001) != 0) _exit(1);
    be_paused(self);
  });
  ASSERT_TRUE(plain.wait_ready());
  ASSERT_TRUE(changed.wait_ready());
  changed.signal(SIGCKPT);
  changed.signal(SIGCKPTEXIT);
  plain.signal(SIGCKPT);
  EXPECT_TRUE(wait_image(plain.pid()));
  pass_queue();
  EXPECT_FALSE(has_image(changed.pid()));
  EXPECT_TRUE(changed.running());
}

TEST_F(Signals, NobodyServes) {
  Child child(be_paused);
  ASSERT_TRUE(child.wait_ready());
  EXPECT_EQ(mount_->stop(), 0);
  child.signal(SIGCKPT);
  child.signal(SIGCKPTEXIT);
  EXPECT_TRUE(wait_until([&] {
    return read_file("/proc/" + std::to_string(child.pid()) + "/status").find("ShdPnd:\t0000000000000000") != std::string::npos;
  }));
  EXPECT_TRUE(child.running());
}

TEST_F(Signals, AKilledServerLeavesNobodyWaiting) {
  Child child(be_paused);
  ASSERT_TRUE(child.wait_ready());
  mount_->stop();
  int device = open("/dev/ckpt", O_RDWR | O_CLOEXEC);
  ASSERT_GE(device, 0) << strerror(errno);
  EXPECT_EQ(open("/dev/ckpt", O_RDWR | O_CLOEXEC), -1);
  EXPECT_EQ(errno, EBUSY);
  child.signal(SIGCKPT);
  ckpt_request request = {};
  ASSERT_EQ(read(device, &request, sizeof request), static_cast<ssize_t>(sizeof request));
  EXPECT_EQ(request.pid, child.pid());
  EXPECT_EQ(request.flags, 0u);
  close(device);
  EXPECT_TRUE(wait_until([&] { return read_file("/proc/" + std::to_string(child.pid()) + "/wchan") != "ckpt_request"; }));
  EXPECT_TRUE(child.running());
}

TEST_F(Signals, TheDeviceRefusesNonsense) {
  mount_->stop();
  const int device = open("/dev/ckpt", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  ASSERT_GE(device, 0);
  ckpt_request request = {};
  EXPECT_EQ(read(device, &request, sizeof request), -1);
  EXPECT_EQ(errno, EAGAIN);
  EXPECT_EQ(read(device, &request, 3), -1);
  EXPECT_EQ(errno, EINVAL);
  const auto refused = [&](ckpt_answer answer, size_t size) {
    EXPECT_EQ(write(device, &answer, size), -1);
    return errno;
  };
  EXPECT_EQ(refused({1, 0, 0}, sizeof(ckpt_answer) - 1), EINVAL);
  EXPECT_EQ(refused({1, 0, 1}, sizeof(ckpt_answer)), EINVAL);
  EXPECT_EQ(refused({1, -1, 0}, sizeof(ckpt_answer)), EINVAL);
  EXPECT_EQ(refused({~0ull, 0, 0}, sizeof(ckpt_answer)), ENOENT);
  EXPECT_EQ(write(device, reinterpret_cast<void*>(~0ull - 4095), sizeof(ckpt_answer)), -1);
  EXPECT_EQ(errno, EFAULT);
  const __u32 next = CKPT_DEVICE_VERSION + 1;
  EXPECT_EQ(ioctl(device, CKPT_IOC_VERSION, &next), -1);
  EXPECT_EQ(errno, EINVAL);
  EXPECT_EQ(ioctl(device, 0x1234, nullptr), -1);
  EXPECT_EQ(errno, ENOTTY);
  // In use, the module stays.
  EXPECT_EQ(syscall(SYS_delete_module, "ckpt", O_NONBLOCK), -1);
  EXPECT_EQ(errno, EWOULDBLOCK);
  close(device);
}

}  // namespace
}  // namespace ckpt_test
