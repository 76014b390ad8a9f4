#include "engine/process/spawn.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/futex.h>
#include <linux/memfd.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>

#include "engine/base/error.h"
#include "engine/base/fd.h"
#include "engine/process/bare.h"

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif

extern "C" {
extern const char ckpt_stub_image[];
extern const char ckpt_stub_image_end[];
}

namespace ckpt {

namespace {

constexpr size_t kStackSize = 16 << 10;
constexpr long kRetryTotalNs = 100'000'000;
constexpr long kRetryStepNs = 500'000;

enum Command { kWait = 0, kLeave = 1, kReap = 2 };

int make_stub_file() {
  int fd = memfd_create("ckpt-stub", MFD_CLOEXEC | MFD_EXEC);
  if (fd < 0 && errno == EINVAL) fd = memfd_create("ckpt-stub", MFD_CLOEXEC);  // before Linux 6.3
  if (fd < 0) fail_errno("the resume's stub: memfd_create");
  UniqueFd owned(fd);
  const size_t size = static_cast<size_t>(ckpt_stub_image_end - ckpt_stub_image);
  write_all(fd, std::string_view(ckpt_stub_image, size), "the resume's stub");
  return owned.release();
}

// One for the life of the program; close-on-exec keeps it out of every child.
int stub_file() {
  static const int fd = make_stub_file();
  return fd;
}

std::string who_uses(pid_t pid) {
  try {
    std::string comm = read_file("/proc/" + std::to_string(pid) + "/comm");
    while (!comm.empty() && comm.back() == '\n') comm.pop_back();
    const std::string status = read_file("/proc/" + std::to_string(pid) + "/status");
    const size_t at = status.find("Tgid:\t");
    const pid_t tgid = at == std::string::npos ? pid : atoi(status.c_str() + at + 6);
    // Gone for all but its parent; nobody else can free the pid.
    const size_t state = status.find("State:\tZ");
    const size_t parent = status.find("PPid:\t");
    if (state != std::string::npos && parent != std::string::npos) {
      return fmt::format("by {} {}, a zombie that its parent {} has not waited for", tgid, comm,
                         atoi(status.c_str() + parent + 6));
    }
    return fmt::format("by {} {}", tgid, comm);
  } catch (const Error&) {
    return "as a process group or session";
  }
}

}  // namespace

void fail_clone(pid_t pid, int err) {
  switch (err) {
    case EEXIST: fail(EEXIST, "{}: the pid is in use ({})", pid, who_uses(pid));
    case EPERM:
      fail(EPERM, "{}: resuming under a chosen pid needs the capability CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN", pid);
    case EINVAL: fail(EINVAL, "{}: the pid is beyond this system's /proc/sys/kernel/pid_max", pid);
    default: fail(err, "{}: clone3 with a chosen pid: {}", pid, errno_text(err));
  }
}

// Memory that we, the keeper and (until it executes the stub) the child have in common.
struct SpawnedStub::Shared {
  std::atomic<uint32_t> ready{0};    // the keeper has tried
  std::atomic<uint32_t> command{kWait};
  long result = 0;                   // of the child's clone3: its pid, or -errno
  long exec_result = 0;              // -errno of its execveat
  pid_t pid = 0;
  pid_t parent = 0;                  // tgid that must be the keeper's parent
  pid_t starter = 0;                 // tgid that must be the child's parent: the keeper, or ourselves
  int program = -1;
  alignas(16) char keeper_stack[kStackSize];
  alignas(16) char child_stack[kStackSize];

  CKPT_BARE static void run_child(void* arg);
  CKPT_BARE static void run_keeper(void* arg);
  CKPT_BARE long start_child();
};

CKPT_BARE void SpawnedStub::Shared::run_child(void* arg) {
  auto* self = static_cast<Shared*>(arg);
  // Until it is handed over, whoever started it takes it along into death.
  raw_call(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL);
  // A parent that died before that has sent nothing.
  if (raw_call(SYS_getppid) != self->starter) raw_call(SYS_exit_group, 1);
  // Our open descriptors, and signals that we ignore (the rest was reset by CLONE_CLEAR_SIGHAND), end here.
  raw_call(SYS_close_range, 0, ~0u, CLOSE_RANGE_CLOEXEC);
  const unsigned long by_default[4] = {};
  for (long sig = 1; sig < _NSIG; ++sig) {
    raw_call(SYS_rt_sigaction, sig, reinterpret_cast<long>(by_default), 0, sizeof(unsigned long));
  }
  const char* const argv[] = {"ckpt-stub", nullptr};
  const char* const envp[] = {nullptr};
  self->exec_result = raw_call(SYS_execveat, self->program, reinterpret_cast<long>(""),
                               reinterpret_cast<long>(argv), reinterpret_cast<long>(envp), AT_EMPTY_PATH);
  raw_call(SYS_exit_group, 127);
  __builtin_unreachable();
}

// clone3 returns when the stub has been executed (CLONE_VFORK). EEXIST may be a zombie that is being reaped, or a
// process that has just been killed: try again for a moment.
CKPT_BARE long SpawnedStub::Shared::start_child() {
  starter = static_cast<pid_t>(raw_call(SYS_getpid));
  clone_args args = {};
  args.flags = CLONE_VM | CLONE_VFORK | CLONE_CLEAR_SIGHAND;
  args.exit_signal = SIGCHLD;
  args.stack = reinterpret_cast<uint64_t>(child_stack);
  args.stack_size = sizeof(child_stack);
  args.set_tid = reinterpret_cast<uint64_t>(&pid);
  args.set_tid_size = 1;
  for (long waited = 0;; waited += kRetryStepNs) {
    const long r = clone_and_call(args, run_child, this);
    if (r != -EEXIST || waited >= kRetryTotalNs) return r;
    const timespec pause = {0, kRetryStepNs};
    raw_call(SYS_nanosleep, reinterpret_cast<long>(&pause), 0);
  }
}

CKPT_BARE void SpawnedStub::Shared::run_keeper(void* arg) {
  auto* self = static_cast<Shared*>(arg);
  raw_call(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL);
  if (raw_call(SYS_getppid) != self->parent) raw_call(SYS_exit_group, 1);
  self->result = self->start_child();
  self->ready.store(1);
  raw_call(SYS_futex, reinterpret_cast<long>(&self->ready), FUTEX_WAKE, 1);
  while (self->command.load() == kWait) {
    raw_call(SYS_futex, reinterpret_cast<long>(&self->command), FUTEX_WAIT, kWait, 0);
  }
  if (self->command.load() == kReap && self->result > 0) raw_call(SYS_wait4, self->result, 0, __WALL, 0);
  raw_call(SYS_exit_group, 0);
  __builtin_unreachable();
}

SpawnedStub::SpawnedStub(pid_t pid, bool as_child) : pid_(pid), shared_(std::make_unique<Shared>()) {
  shared_->pid = pid;
  shared_->parent = getpid();
  shared_->program = stub_file();
  // The keeper and the child share our memory: a signal handler must not run in them. The stub starts with this
  // mask, too, and so is never disturbed.
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  if (as_child) {
    shared_->result = shared_->start_child();
  } else {
    clone_args args = {};
    args.flags = CLONE_VM | CLONE_FILES | CLONE_FS;
    args.stack = reinterpret_cast<uint64_t>(shared_->keeper_stack);
    args.stack_size = sizeof(shared_->keeper_stack);
    const long r = clone_and_call(args, Shared::run_keeper, shared_.get());
    if (r < 0) {
      pthread_sigmask(SIG_SETMASK, &old, nullptr);
      fail(static_cast<int>(-r), "{}: clone3: {}", pid, errno_text(static_cast<int>(-r)));
    }
    keeper_ = static_cast<pid_t>(r);
    while (shared_->ready.load() == 0) {
      const timespec second = {1, 0};
      raw_call(SYS_futex, reinterpret_cast<long>(&shared_->ready), FUTEX_WAIT, 0, reinterpret_cast<long>(&second));
      if (shared_->ready.load() == 0 && waitpid(keeper_, nullptr, __WALL | WNOHANG) == keeper_) {
        keeper_ = 0;                        // somebody killed it: its child died with it
        shared_->result = -EINTR;
        break;
      }
    }
  }
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
  const long result = shared_->result;
  if (result > 0 && shared_->exec_result == 0) return;
  const int exec_err = static_cast<int>(-shared_->exec_result);
  if (keeper_ != 0) {
    end_keeper(kReap);
  } else if (result > 0) {
    waitpid(pid_, nullptr, __WALL);
  }
  if (result < 0) fail_clone(pid, static_cast<int>(-result));
  fail(exec_err, "{}: executing the resume's stub: {}", pid, errno_text(exec_err));
}

void SpawnedStub::end_keeper(int command) {
  if (keeper_ == 0) return;
  shared_->command.store(static_cast<uint32_t>(command));
  raw_call(SYS_futex, reinterpret_cast<long>(&shared_->command), FUTEX_WAKE, 1);
  while (waitpid(keeper_, nullptr, __WALL) < 0 && errno == EINTR) {
  }
  keeper_ = 0;
}

void SpawnedStub::hand_over() {
  end_keeper(kLeave);
  pid_ = 0;
}

SpawnedStub::~SpawnedStub() {
  if (keeper_ != 0) {
    end_keeper(kReap);
  } else if (pid_ != 0) {
    waitpid(pid_, nullptr, __WALL | WNOHANG);
  }
}

}  // namespace ckpt
