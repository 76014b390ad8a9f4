// One seized thread, and the ptrace(2) requests on it.
//
//   Tracee t(1234, 1235);                  // PTRACE_SEIZE: the thread runs on
//   t.interrupt();
//   t.wait_stop(deadline);                 // now it stands in PTRACE_EVENT_STOP
//   user_regs_struct regs = t.registers();
//   t.detach();                            // it goes on as if nothing had happened
//
// Signals: one that is delivered between seize and stop is passed on unchanged, its handler's frame being set
// up before the thread stops (PTRACE_INTERRUPT's trap stays pending and comes before the next signal is
// dequeued). Job control: a thread that was stopped by SIGSTOP & co. is stopped again after detach(); the
// kernel sees to it (__ptrace_unlink).
//
// All calls must come from the thread that made the object (ptrace's rule). When this thread or process dies
// the kernel detaches the tracee and it runs on: EXITKILL is never set unless asked for.
#pragma once

#include <signal.h>
#include <sys/types.h>
#include <sys/user.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/process/remote_ptr.h"

namespace ckpt {

/// What PTRACE_GET_RSEQ_CONFIGURATION tells (Linux 5.13).
struct RseqConfig {
  uint64_t abi = 0;  ///< address of struct rseq, 0 where none is registered
  uint32_t size = 0;
  uint32_t signature = 0;
  uint32_t flags = 0;
};

/// For waits that are over in a moment, exact to a microsecond or so on an idle CPU.
void sleep_briefly(long nanoseconds);

class Tracee {
 public:
  /// Seizes the thread. `options` are added to PTRACE_O_TRACESYSGOOD. Throws Error: ESRCH (gone, or ended),
  /// EPERM.
  Tracee(pid_t pid, pid_t tid, unsigned options = 0);
  /// A thread that is ours already: from birth (take_born()), or as another one in whose place it has come. `options` are
  /// those that its maker, or the other one, was seized with.
  struct Ours {};
  Tracee(pid_t pid, pid_t tid, unsigned options, Ours);
  /// Detaches if the thread is stopped. A thread that still runs stays seized until the calling thread ends.
  ~Tracee();
  Tracee(const Tracee&) = delete;
  Tracee& operator=(const Tracee&) = delete;

  pid_t pid() const { return pid_; }
  pid_t tid() const { return tid_; }
  bool stopped() const { return state_ == State::stopped; }
  /// The thread has ended (or an execve of another thread has ended it).
  bool gone() const { return state_ == State::gone; }
  /// It is in a job-control stop as well, and will be after detach().
  bool group_stopped() const { return group_stopped_; }

  /// Asks for a stop; does not wait. No effect on a thread that has gone.
  void interrupt();
  using Deadline = std::chrono::steady_clock::time_point;
  /// Waits until the thread has stopped or gone; false when the deadline has passed.
  bool wait_stop(Deadline deadline);
  /// Without waiting: true where the thread stands in the stop that it was found in before. An execve(2) of another thread
  /// ends a stopped one, and gives the id of the main thread to the thread that made it (de_thread() in fs/exec.c), for
  /// which this object stands from then on: not stopped then, but asked to. Gone where we have not seized that one.
  bool look_again();
  /// With PTRACE_O_TRACECLONE: what the thread has made since the last call, by clone(2) and not as fork(2) does. Each is
  /// ours from birth and about to stop.
  std::vector<pid_t> take_born() { return std::exchange(born_, {}); }
  /// Runs the stopped thread to its next system-call stop (entry or exit), passing signals on. Throws
  /// Error(ESRCH) if it died.
  void run_to_syscall_stop();
  /// Lets the stopped thread run, still traced; interrupt() ends it.
  void go_on();
  /// Lets the thread go on for good. `signal` is delivered to it, 0 for none.
  void detach(int signal = 0);

  // The thread must be stopped. These throw Error(ESRCH) if it has been killed meanwhile.
  user_regs_struct registers() const;
  void set_registers(const user_regs_struct& regs);
  /// rax alone: one word instead of the whole set.
  uint64_t rax() const;
  /// The whole XSAVE area in the standard format (NT_X86_XSTATE).
  std::vector<std::byte> xsave() const;
  void set_xsave(std::span<const std::byte> area);
  /// Blocked signals, bit n-1 for signal n; of a thread inside sigsuspend(2) and the like the mask from
  /// before.
  uint64_t signal_mask() const;
  void set_signal_mask(uint64_t mask);
  /// Pending signals with their siginfo, in queue order: of this thread, or those of the process.
  std::vector<siginfo_t> pending_signals(bool of_process) const;
  /// While it is suspended the thread's system calls meet no seccomp; a detach, and our death, end that. False where
  /// it cannot be had (CAP_SYS_ADMIN).
  bool suspend_seccomp(bool suspended) const;
  /// Nothing where the kernel cannot tell (before 5.13).
  std::optional<RseqConfig> rseq() const;

  /// Memory through process_vm_readv(2) and writev(2), else /proc/PID/mem, which also writes into read-only
  /// private mappings and makes a stack grow. Exact length; throws Error(EFAULT, ESRCH).
  void read(RemotePtr from, std::span<std::byte> to) const;
  void write(RemotePtr to, std::span<const std::byte> from) const;

 private:
  enum class State { running, stopped, gone };
  long request(int what, void* addr, void* data, const char* name) const;
  void note_stop(int status);
  void take(int status);

  pid_t pid_;
  pid_t tid_;
  unsigned options_;
  State state_ = State::running;
  bool group_stopped_ = false;
  std::vector<pid_t> born_;
};

}  // namespace ckpt
