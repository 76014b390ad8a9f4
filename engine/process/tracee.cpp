#include "engine/process/tracee.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#include <array>
#include <cstddef>
#include <cstring>

#include "engine/base/error.h"
#include "engine/base/fd.h"
#include "engine/process/restart.h"

namespace ckpt {
namespace {

// Not in the sys/ptrace.h of every glibc.
constexpr int kGetRseqConfiguration = 0x420f;
constexpr int kSyscallStop = SIGTRAP | 0x80;  // with PTRACE_O_TRACESYSGOOD
constexpr size_t kSigsetBytes = 8;            // of the kernel
constexpr int kStopSpins = 400;  // some 100 us

int ptrace_request(int what, pid_t tid, void* addr, void* data) {
  return static_cast<int>(::ptrace(static_cast<__ptrace_request>(what), tid, addr, data));
}

/// Of a stop: a signal on its way to the thread.
bool is_signal(int status) { return WIFSTOPPED(status) && status >> 16 == 0 && WSTOPSIG(status) != kSyscallStop; }

void* as_data(unsigned long value) { return reinterpret_cast<void*>(value); }

}  // namespace

void sleep_briefly(long nanoseconds) {
  // The kernel would add up to 50 us to the sleep of a thread that has not said otherwise.
  static thread_local const int exact = ::prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
  static_cast<void>(exact);
  const timespec pause = {0, nanoseconds};
  ::nanosleep(&pause, nullptr);
}

Tracee::Tracee(pid_t pid, pid_t tid, unsigned options, Ours)
    : pid_(pid), tid_(tid), options_(PTRACE_O_TRACESYSGOOD | options) {}

Tracee::Tracee(pid_t pid, pid_t tid, unsigned options)
    : pid_(pid), tid_(tid), options_(PTRACE_O_TRACESYSGOOD | options) {
  if (ptrace_request(PTRACE_SEIZE, tid, nullptr, as_data(options_)) < 0) {
    fail_errno("{}: thread {}: ptrace", pid, tid);
  }
}

Tracee::~Tracee() {
  try {
    // It may have stopped with nobody looking.
    int status = 0;
    if (state_ == State::running && ::waitpid(tid_, &status, __WALL | WNOHANG) == tid_) {
      note_stop(status);
      if (stopped()) undo_our_stop(*this);
      detach(is_signal(status) ? WSTOPSIG(status) : 0);
    }
    detach();
  } catch (const Error&) {
    // It was killed meanwhile: nothing is left to be detached.
  }
}

long Tracee::request(int what, void* addr, void* data, const char* name) const {
  const long result = ptrace_request(what, tid_, addr, data);
  if (result < 0) {
    if (errno == ESRCH) fail(ESRCH, "{}: thread {} has been killed", pid_, tid_);
    fail_errno("{}: thread {}: {}", pid_, tid_, name);
  }
  return result;
}

void Tracee::interrupt() {
  if (state_ != State::running) return;
  // ESRCH: it is ending; the wait will tell.
  if (ptrace_request(PTRACE_INTERRUPT, tid_, nullptr, nullptr) < 0 && errno != ESRCH) {
    fail_errno("{}: thread {}: PTRACE_INTERRUPT", pid_, tid_);
  }
}

void Tracee::note_stop(int status) {
  if (WIFEXITED(status) || WIFSIGNALED(status)) {
    state_ = State::gone;
    return;
  }
  state_ = State::stopped;
  if (status >> 16 == PTRACE_EVENT_STOP) group_stopped_ = WSTOPSIG(status) != SIGTRAP;
}

bool Tracee::wait_stop(Deadline deadline) {
  // waitpid(2) knows no time limit. A running thread stops within some 10 us, so look first and sleep later. Never yield:
  // on a busy machine that gives away a whole time slice, while whoever sleeps is woken in time.
  int spins = 0;
  while (state_ == State::running) {
    int status = 0;
    const pid_t got = ::waitpid(tid_, &status, __WALL | WNOHANG);
    if (got < 0) {
      if (errno == EINTR) continue;
      state_ = State::gone;  // ECHILD: reaped by an execve of another thread
      break;
    }
    if (got == 0) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      if (++spins > kStopSpins) sleep_briefly(spins < kStopSpins + 200 ? 20'000 : 2'000'000);
      continue;
    }
    take(status);
  }
  return true;
}

void Tracee::take(int status) {
  note_stop(status);
  const int event = status >> 16;
  if (state_ != State::stopped || event == PTRACE_EVENT_STOP) return;
  if (event == PTRACE_EVENT_CLONE) {
    unsigned long tid = 0;
    if (ptrace_request(PTRACE_GETEVENTMSG, tid_, nullptr, &tid) == 0) born_.push_back(static_cast<pid_t>(tid));
  }
  // A signal on its way, or an event: pass it on; the interrupt's trap is still to come.
  state_ = State::running;
  if (ptrace_request(PTRACE_CONT, tid_, nullptr, as_data(is_signal(status) ? WSTOPSIG(status) : 0)) < 0 &&
      errno != ESRCH) {
    fail_errno("{}: thread {}: PTRACE_CONT", pid_, tid_);
  }
  // But the event has swallowed it where it came from inside of clone(2) or execve(2) (ptrace_stop() in kernel/signal.c);
  // and after an execve this is the thread that made it, which may never have been asked.
  if (event != 0) interrupt();
}

bool Tracee::look_again() {
  if (state_ == State::stopped) {
    // In this order: where the request is granted and the wait has nothing new, this is the stop that was waited for.
    errno = 0;
    const bool stands = ::ptrace(PTRACE_PEEKUSER, tid_, offsetof(user_regs_struct, rax), nullptr) != -1 || errno != ESRCH;
    int status = 0;
    const pid_t got = ::waitpid(tid_, &status, __WALL | WNOHANG);
    if (got == 0 && stands) return true;
    state_ = got < 0 ? State::gone : State::running;
    if (got > 0) take(status);
  }
  if (state_ != State::running) return false;
  if (wait_stop({}) || ptrace_request(PTRACE_INTERRUPT, tid_, nullptr, nullptr) == 0 || errno != ESRCH) return false;
  // Not ours any more: an exec has given the id to a thread that we have not seized. Or it is the main thread, whose
  // end is not reported before that of the others.
  const UniqueFd proc(::open(fmt::format("/proc/{}/stat", tid_).c_str(), O_RDONLY | O_CLOEXEC));
  std::array<char, 128> text{};
  if (proc && ::read(proc.get(), text.data(), text.size() - 1) > 0) {
    const char* const name_end = std::strrchr(text.data(), ')');
    if (name_end != nullptr && std::strncmp(name_end, ") Z", 3) == 0) return false;
  }
  state_ = State::gone;
  return false;
}

void Tracee::run_to_syscall_stop() {
  int signal = 0;
  for (;;) {
    request(PTRACE_SYSCALL, nullptr, as_data(signal), "PTRACE_SYSCALL");
    int status = 0;
    pid_t got = 0;
    // It stops within a few microseconds. Where it has a CPU of its own, waking us up would take longer than that.
    for (int spins = 0; spins < kStopSpins && got == 0; ++spins) got = ::waitpid(tid_, &status, __WALL | WNOHANG);
    if (got == 0) {
      do got = ::waitpid(tid_, &status, __WALL);
      while (got < 0 && errno == EINTR);
    }
    if (got < 0)
      state_ = State::gone;
    else
      note_stop(status);
    if (state_ == State::gone) fail(ESRCH, "{}: thread {} has been killed", pid_, tid_);
    if (status >> 16 != 0) {
      signal = 0;  // EVENT_STOP: of an earlier interrupt, or a job-control stop, which detach() will renew
    } else if (WSTOPSIG(status) == kSyscallStop) {
      return;
    } else {
      signal = WSTOPSIG(status);  // all are blocked but SIGSTOP: it must not be lost
    }
  }
}

void Tracee::go_on() {
  request(PTRACE_CONT, nullptr, nullptr, "PTRACE_CONT");
  state_ = State::running;
}

void Tracee::detach(int signal) {
  if (state_ != State::stopped) return;
  state_ = State::gone;
  if (ptrace_request(PTRACE_DETACH, tid_, nullptr, as_data(signal)) == 0) return;
  if (errno != ESRCH) fail_errno("{}: thread {}: PTRACE_DETACH", pid_, tid_);
  // Killed meanwhile, by an execve(2) of a thread that has been let go before, say, which waits until we have waited for
  // this one. Not the main thread: its end is for its parent to be waited for.
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(1);
  if (tid_ == pid_) return;
  state_ = State::running;
  wait_stop(deadline);
}

user_regs_struct Tracee::registers() const {
  user_regs_struct regs{};
  iovec io = {&regs, sizeof regs};
  request(PTRACE_GETREGSET, as_data(NT_PRSTATUS), &io, "PTRACE_GETREGSET");
  if (io.iov_len != sizeof regs) fail(EOPNOTSUPP, "{}: a 32-bit program cannot be checkpointed", pid_);
  return regs;
}

void Tracee::set_registers(const user_regs_struct& regs) {
  iovec io = {const_cast<user_regs_struct*>(&regs), sizeof regs};
  request(PTRACE_SETREGSET, as_data(NT_PRSTATUS), &io, "PTRACE_SETREGSET");
}

uint64_t Tracee::rax() const {
  errno = 0;
  const long value = ::ptrace(PTRACE_PEEKUSER, tid_, offsetof(user_regs_struct, rax), nullptr);
  if (value == -1 && errno == ESRCH) fail(ESRCH, "{}: thread {} has been killed", pid_, tid_);
  return static_cast<uint64_t>(value);
}

std::vector<std::byte> Tracee::xsave() const {
  // 2.7 kB with AVX-512, 11 kB with AMX; the kernel says how much there was.
  std::vector<std::byte> area(64 << 10);
  iovec io = {area.data(), area.size()};
  request(PTRACE_GETREGSET, as_data(NT_X86_XSTATE), &io, "PTRACE_GETREGSET");
  area.resize(io.iov_len);
  return area;
}

void Tracee::set_xsave(std::span<const std::byte> area) {
  iovec io = {const_cast<std::byte*>(area.data()), area.size()};
  request(PTRACE_SETREGSET, as_data(NT_X86_XSTATE), &io, "PTRACE_SETREGSET");
}

uint64_t Tracee::signal_mask() const {
  uint64_t mask = 0;
  request(PTRACE_GETSIGMASK, as_data(kSigsetBytes), &mask, "PTRACE_GETSIGMASK");
  return mask;
}

void Tracee::set_signal_mask(uint64_t mask) {
  request(PTRACE_SETSIGMASK, as_data(kSigsetBytes), &mask, "PTRACE_SETSIGMASK");
}

std::vector<siginfo_t> Tracee::pending_signals(bool of_process) const {
  std::vector<siginfo_t> pending;
  std::array<siginfo_t, 32> batch;
  for (;;) {
    __ptrace_peeksiginfo_args args{};
    args.off = pending.size();
    args.flags = of_process ? PTRACE_PEEKSIGINFO_SHARED : 0;
    args.nr = static_cast<int>(batch.size());
    const long got = request(PTRACE_PEEKSIGINFO, &args, batch.data(), "PTRACE_PEEKSIGINFO");
    pending.insert(pending.end(), batch.begin(), batch.begin() + got);
    if (got < static_cast<long>(batch.size())) return pending;
  }
}

bool Tracee::suspend_seccomp(bool suspended) const {
  const unsigned options = options_ | (suspended ? PTRACE_O_SUSPEND_SECCOMP : 0);
  return ptrace_request(PTRACE_SETOPTIONS, tid_, nullptr, as_data(options)) == 0;
}

std::optional<RseqConfig> Tracee::rseq() const {
  struct {
    uint64_t pointer;
    uint32_t size, signature, flags, pad;
  } raw{};
  if (ptrace_request(kGetRseqConfiguration, tid_, as_data(sizeof raw), &raw) < 0) {
    if (errno == ESRCH) fail(ESRCH, "{}: thread {} has been killed", pid_, tid_);
    return std::nullopt;
  }
  return RseqConfig{raw.pointer, raw.size, raw.signature, raw.flags};
}

void Tracee::read(RemotePtr from, std::span<std::byte> to) const {
  const iovec local = {to.data(), to.size()};
  const iovec remote = {reinterpret_cast<void*>(from.addr), to.size()};
  if (::process_vm_readv(tid_, &local, 1, &remote, 1, 0) == static_cast<ssize_t>(to.size())) return;
  // A page without read permission: /proc/PID/mem reads it all the same.
  const std::string name = fmt::format("/proc/{}/mem", tid_);
  const UniqueFd mem(::open(name.c_str(), O_RDONLY | O_CLOEXEC));
  if (!mem) fail(ESRCH, "{}: thread {} has gone", pid_, tid_);
  if (::pread(mem.get(), to.data(), to.size(), static_cast<off_t>(from.addr)) !=
      static_cast<ssize_t>(to.size())) {
    fail(EFAULT, "{}: {} bytes of memory at {:#x} cannot be read", pid_, to.size(), from.addr);
  }
}

void Tracee::write(RemotePtr to, std::span<const std::byte> from) const {
  const iovec local = {const_cast<std::byte*>(from.data()), from.size()};
  const iovec remote = {reinterpret_cast<void*>(to.addr), from.size()};
  if (::process_vm_writev(tid_, &local, 1, &remote, 1, 0) == static_cast<ssize_t>(from.size())) return;
  const std::string name = fmt::format("/proc/{}/mem", tid_);
  const UniqueFd mem(::open(name.c_str(), O_WRONLY | O_CLOEXEC));
  if (!mem) fail(ESRCH, "{}: thread {} has gone", pid_, tid_);
  if (::pwrite(mem.get(), from.data(), from.size(), static_cast<off_t>(to.addr)) !=
      static_cast<ssize_t>(from.size())) {
    fail(EFAULT, "{}: {} bytes of memory at {:#x} cannot be written", pid_, from.size(), to.addr);
  }
}

}  // namespace ckpt
