#include "engine/process/stub.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstdio>

#include "engine/base/error.h"

namespace ckpt {

// ---- making it ----------------------------------------------------------------------------------------------------

Stub::Stub(pid_t pid, bool as_child) : pid_(pid), spawned_(std::make_unique<SpawnedStub>(pid, as_child)) {
  try {
    pid_fd_.reset(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    if (!pid_fd_) fail_errno("{}: pidfd_open", pid);
    constexpr long options = PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK;
    // Filters are installed before the last remote call is made; threads to come inherit this.
    if (ptrace(PTRACE_SEIZE, pid, 0, options | PTRACE_O_SUSPEND_SECCOMP) != 0 &&
        ptrace(PTRACE_SEIZE, pid, 0, options) != 0) {
      fail_errno("{}: tracing the new process", pid);
    }
    threads_.push_back(std::make_unique<StubThread>(*this, pid));
    if (ptrace(PTRACE_INTERRUPT, pid, 0, 0) != 0) fail_errno("{}: stopping the new process", pid);
    wait_stop(pid);
    if (ptrace(PTRACE_GETREGS, pid, 0, &base_) != 0) fail_errno("{}: registers of the new process", pid);
    base_.orig_rax = ~0ull;    // whatever pause() was to be restarted is not
    mem_ = open_at(AT_FDCWD, fmt::format("/proc/{}/mem", pid), O_RDWR);
    find_gadget();
    // The kernel's kill-on-exit of the tracer takes over from the parent-death signal.
    leader().call("prctl", SYS_prctl, PR_SET_PDEATHSIG, 0);
  } catch (...) {
    kill();
    throw;
  }
}

Stub::Stub(StubThread& maker, pid_t pid, uint64_t flags, int exit_signal) : pid_(pid) {
  take_addresses(maker.stub_);
  clone_args args = {};
  args.flags = flags;
  args.exit_signal = static_cast<uint64_t>(exit_signal);
  alive_ = false;
  const long r = maker.stub_.clone(maker, args, pid);
  if (r < 0) fail_clone(pid, static_cast<int>(-r));
  alive_ = true;
  try {
    threads_.push_back(std::make_unique<StubThread>(*this, pid));
    wait_stop(pid);            // born traced, with the options of its maker
    pid_fd_.reset(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    if (!pid_fd_) fail_errno("{}: pidfd_open", pid);
    mem_ = open_at(AT_FDCWD, fmt::format("/proc/{}/mem", pid), O_RDWR);
  } catch (...) {
    kill();
    throw;
  }
}

Stub::~Stub() {
  if (alive_) kill();
}

// Until the helper is mapped, the stub's own first system call instruction serves, and its stack as scratch.
void Stub::find_gadget() {
  const std::string where = fmt::format("/proc/{}/maps", pid_);
  unsigned long start = 0, end = 0;
  if (sscanf(read_file(where).c_str(), "%lx-%lx", &start, &end) != 2) fail(EIO, "{}: no mapping", where);
  std::vector<uint8_t> text(std::min<size_t>(end - start, 4096));
  leader().read(RemotePtr{start}, std::as_writable_bytes(std::span(text)));
  for (size_t i = 0; i + 1 < text.size(); ++i) {
    if (text[i] == 0x0f && text[i + 1] == 0x05) {
      gadget_ = RemotePtr{start + i};
      scratch_ = RemotePtr{(base_.rsp - 8192) & ~63ull};   // the stack grows down to it by itself
      scratch_size_ = 4096;
      return;
    }
  }
  fail(EIO, "{}: the resume's stub has no system call instruction", pid_);
}

void Stub::take_addresses(const Stub& like) {
  base_ = like.base_;
  gadget_ = like.gadget_;
  helper_ = like.helper_;
  scratch_ = like.scratch_;
  scratch_size_ = like.scratch_size_;
}

void Stub::share_helper(const Stub& owner) {
  take_addresses(owner);
  borrows_helper_ = true;
}

// clone3 with a chosen id, repeated while an old process's or thread's last reference may be going away just now.
long Stub::clone(StubThread& by, const clone_args& args, pid_t tid) {
  clone_args full = args;
  // set_tid stands behind the structure itself.
  full.set_tid = by.put(tid, sizeof(full)).addr;
  full.set_tid_size = 1;
  const RemotePtr at = by.put(full);
  long r = 0;
  for (int tries = 0; tries < 200; ++tries) {
    r = by.syscall(SYS_clone3, at.addr, sizeof(full));
    if (r != -EEXIST) break;
    usleep(500);
  }
  return r;
}

StubThread& Stub::add_thread(pid_t tid) {
  clone_args args = {};
  args.flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
  const long r = clone(leader(), args, tid);
  if (r == -EEXIST) fail(EEXIST, "{}: the thread id {} is in use", pid_, tid);
  if (r < 0) fail(static_cast<int>(-r), "{}: clone3 for thread {}: {}", pid_, tid, errno_text(static_cast<int>(-r)));
  threads_.push_back(std::make_unique<StubThread>(*this, tid));
  wait_stop(tid);              // born traced (PTRACE_O_TRACECLONE), stops before it returns to user mode
  return *threads_.back();
}

// ---- the end ------------------------------------------------------------------------------------------------------

void Stub::hand_over() {
  const RemotePtr at = leader().put(int{0});
  leader().call("prctl", SYS_prctl, PR_GET_PDEATHSIG, at.addr);
  const int signal = leader().get<int>(at);
  if (signal != 0) leader().call("prctl", SYS_prctl, PR_SET_PDEATHSIG, 0);
  spawned_->hand_over();
  // The parent that it would tell of is a new one; the old one's death has happened unseen.
  if (signal != 0) leader().call("prctl", SYS_prctl, PR_SET_PDEATHSIG, static_cast<uint64_t>(signal));
}

void Stub::drop_helper() {
  if (helper_.addr != 0 && !borrows_helper_) leader().call("munmap", SYS_munmap, helper_.addr, kHelperSize);
}

void Stub::let_go(bool stopped) noexcept {
  if (stopped) ::syscall(SYS_pidfd_send_signal, pid_fd_.get(), SIGSTOP, nullptr, 0);
  // With the first detach the process is on its own; the leader goes last, so that a program never runs without it. A
  // thread that somebody has killed needs no letting go.
  for (size_t i = threads_.size(); i-- > 0;) ptrace(PTRACE_DETACH, threads_[i]->tid(), 0, 0);
  alive_ = false;
}

void Stub::end(int wait_status) {
  const int signo = WTERMSIG(wait_status);
  user_regs_struct regs = base_;
  regs.rip = gadget_.addr;
  regs.rax = SYS_exit_group;
  regs.rdi = static_cast<uint64_t>(WEXITSTATUS(wait_status));
  if (signo != 0) {
    // By the default action of the signal, in the pause() that follows; a core it must not write.
    regs.rax = SYS_pause;
    const rlimit none = {};
    prlimit(pid_, RLIMIT_CORE, &none, nullptr);
    const uint64_t open_mask = 0;
    if (ptrace(static_cast<__ptrace_request>(PTRACE_SETSIGMASK), pid_, sizeof(open_mask), &open_mask) != 0) {
      fail_errno("{}: signal mask", pid_);
    }
  }
  if (ptrace(PTRACE_SETREGS, pid_, 0, &regs) != 0) fail_errno("{}: registers", pid_);
  if (signo != 0) ::syscall(SYS_pidfd_send_signal, pid_fd_.get(), signo, nullptr, 0);
  for (int deliver = 0;;) {
    if (ptrace(PTRACE_CONT, pid_, 0, deliver) != 0 && errno != ESRCH) fail_errno("{}: PTRACE_CONT", pid_);
    int status = 0;
    while (waitpid(pid_, &status, __WALL) < 0) {
      if (errno != EINTR) fail_errno("{}: waiting for its end", pid_);
    }
    if (!WIFSTOPPED(status)) break;
    deliver = status >> 16 == 0 && WSTOPSIG(status) == signo ? signo : 0;
  }
  alive_ = false;
}

void Stub::kill() noexcept {
  if (!alive_) {
    alive_ = false;
    return;
  }
  alive_ = false;
  if (pid_fd_) {
    ::syscall(SYS_pidfd_send_signal, pid_fd_.get(), SIGKILL, nullptr, 0);
  } else {
    ::kill(pid_, SIGKILL);
  }
  // Traced threads stay until their tracer has taken note; the leader's end comes after theirs.
  if (threads_.empty()) return;
  for (size_t i = threads_.size(); i-- > 0;) {
    int status = 0;
    do {
      const pid_t r = waitpid(threads_[i]->tid(), &status, __WALL);
      if (r < 0 && errno == EINTR) continue;
      if (r < 0) break;
    } while (WIFSTOPPED(status));
  }
}

// ---- one CPU ------------------------------------------------------------------------------------------------------

CpuPin::CpuPin(std::vector<const Stub*> stubs) : stubs_(std::move(stubs)), saved_(128) {   // 8192 CPUs
  const long n = ::syscall(SYS_sched_getaffinity, 0, saved_.size() * sizeof(saved_[0]), saved_.data());
  if (n <= 0) {
    saved_.clear();
    return;
  }
  const int cpu = sched_getcpu();
  std::vector<unsigned long> one(saved_.size());
  if (cpu < 0 || static_cast<size_t>(cpu) >= one.size() * 64) return;
  one[static_cast<size_t>(cpu) / 64] |= 1ul << (cpu % 64);
  set(one);
}

void CpuPin::set(const std::vector<unsigned long>& mask) const {
  const size_t size = mask.size() * sizeof(mask[0]);
  ::syscall(SYS_sched_setaffinity, 0, size, mask.data());
  if (stubs_stay_) return;
  for (const Stub* stub : stubs_) {
    for (const auto& thread : stub->threads()) ::syscall(SYS_sched_setaffinity, thread->tid(), size, mask.data());
  }
}

CpuPin::~CpuPin() {
  if (!saved_.empty()) set(saved_);
}

}  // namespace ckpt
