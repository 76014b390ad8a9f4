// System calls inside a process that does not know of us, and that outlives us whenever we die.
//
//   Tracee thread(pid, tid);  thread.interrupt();  thread.wait_stop(deadline);
//   InjectionSite site = find_injection_site(pid, parse_mappings(maps));     // may be done before the stop
//   {
//     RemoteSyscall remote(thread, site);
//     const long brk = remote.call("brk", SYS_brk, 0);                         // the first call prepares the
//     thread
//   }                                   // registers, signal mask and stack bytes are as they were
//   thread.detach();
//
// A system call that was under way when the thread was stopped, step by step:
//   1. PTRACE_INTERRUPT wakes the thread inside, say, nanosleep; the call leaves the kernel's depths with rax
//   =
//      -ERESTART_RESTARTBLOCK (-516), orig_rax = 35, and the thread traps in get_signal(), before the kernel
//      has decided about the restart. The time left stands in the task's restart_block.
//   2. We keep these registers, and let the thread run other calls with orig_rax = -1: it then enters the
//   first of them
//      without any restart. A call that is not restarted itself leaves restart_block alone.
//   3. At the end the registers go back, orig_rax and -516 included, while the thread stands in a
//   system-call-exit
//      stop. PTRACE_DETACH marks a signal as pending (__ptrace_unlink), so the thread passes get_signal() on
//      its way out, which now finds orig_rax >= 0 and -516, and restarts the sleep with the rest of its time.
//
// And if we are killed in between: the thread runs with a stack pointer at an rt_sigframe that we made, and
// its instruction pointer in front of a `syscall; ret`. The kernel detaches it, the call under way ends,
// `ret` goes to libc's
// __restore_rt, and rt_sigreturn(2) puts registers, XSAVE state and signal mask back. What the kernel would
// have restarted stands restart-fixed in the frame (rax = orig_rax, rip -= 2); a -516 call begins again with
// its whole time. Until then all signals are blocked, so no handler meets the borrowed stack pointer. Single
// steps and int3 would leave a SIGTRAP behind: only PTRACE_SYSCALL is used.
//
// The frame, and scratch memory, lie below the red zone of a stack whose bounds are known: the bytes there
// are dead by the ABI, and are put back all the same. A thread whose stack pointer is in a heap block
// (coroutines, goroutines), where the memory below belongs to somebody else, borrows the low end of the main
// thread's stack.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/process/injection_site.h"
#include "engine/process/remote.h"
#include "engine/process/tracee.h"

namespace ckpt {

/// Not thread-safe; used by the tracing thread only, while the thread is stopped.
class RemoteSyscall : public Remote {
 public:
  /// Does nothing to the thread yet. Both must outlive the object.
  RemoteSyscall(Tracee& tracee, InjectionSite& site);
  ~RemoteSyscall() override;
  RemoteSyscall(const RemoteSyscall&) = delete;
  RemoteSyscall& operator=(const RemoteSyscall&) = delete;

  pid_t pid() const override { return tracee_.pid(); }
  pid_t tid() const override { return tracee_.tid(); }
  long syscall(long nr, uint64_t a = 0, uint64_t b = 0, uint64_t c = 0, uint64_t d = 0, uint64_t e = 0,
               uint64_t f = 0) override;
  std::vector<long> run_all(std::span<const SystemCall> calls) override;
  void read(RemotePtr from, std::span<std::byte> to) override { tracee_.read(from, to); }
  void write(RemotePtr to, std::span<const std::byte> from) override { tracee_.write(to, from); }
  void on_our_death(const std::vector<SystemCall>& calls) override;
  void drop_first_on_death() override;
  RemotePtr on_death_argument(size_t argument) override;
  RemotePtr put_calls(const std::vector<SystemCall>& calls, size_t& offset) override;
  RemotePtr scratch() const override;
  size_t scratch_size() const override { return 4096; }

  uint64_t signal_mask() override;

  Tracee& tracee() const { return tracee_; }
  /// The registers that the thread goes on with, whether calls have been injected or not: as they were at the
  /// stop, but at the abort address where that was in an rseq critical section (as the kernel would have it),
  /// and with an EINTR that only our stop has caused undone (undo_interruption). Read once a stop.
  const user_regs_struct& own_registers() const;

  /// Puts everything back; the next call prepares the thread again. Throws Error(ESRCH) if the thread was
  /// killed.
  void finish();

 private:
  struct Borrowed;  // what we have taken from the thread, and how it was
  Borrowed& prepare() const;
  RemotePtr borrow_main_stack(size_t step) const;
  user_regs_struct registers_for(const SystemCall& call, RemotePtr returns_to) const;
  std::vector<std::byte> frames_of(std::span<const SystemCall> calls, RemotePtr at, RemotePtr after) const;
  void give_back() const;
  /// Where `size` bytes for run_all() are free below everything else that is borrowed; none where that is not known.
  RemotePtr chain_memory(size_t size) const;
  std::vector<long> run_chain(std::span<const SystemCall> calls, RemotePtr at);
  void wait_chain(RemotePtr from, RemotePtr mark);
  mutable bool own_known_ = false;
  mutable bool own_changed_ = false;  // from what the thread has: to be set
  mutable user_regs_struct own_{};
  Tracee& tracee_;
  InjectionSite& site_;
  mutable std::unique_ptr<Borrowed> borrowed_;
};

/// The instruction pointer that a thread stopped at `ip` goes on from: the abort address where `ip` is inside
/// an rseq critical section (the kernel moves it there for any thread that has been off its CPU), else `ip`.
uint64_t rseq_resume_ip(const Tracee& tracee, uint64_t ip);

}  // namespace ckpt
