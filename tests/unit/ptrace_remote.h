// A Remote for tests: system calls in a child of the test, by ptrace and single steps. Made by the thread that uses it.
#pragma once

#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>

#include "engine/base/error.h"
#include "engine/memory/remote_memory.h"
#include "engine/process/remote.h"

// The child is forked from the test, so that it has this instruction at the same address.
extern "C" void ckpt_test_syscall_instruction();
asm(R"(
  .pushsection .text
ckpt_test_syscall_instruction:
  syscall
  nop
  .popsection
)");

namespace ckpt::test {

class PtraceRemote : public Remote {
 public:
  /// Seizes every thread; the process runs on.
  explicit PtraceRemote(pid_t pid) : pid_(pid), memory_(pid) {
    if (::ptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_TRACESYSGOOD) != 0) fail_errno("seize");
  }
  ~PtraceRemote() override {
    try {
      if (stopped_) go();
      stop();
      ::ptrace(PTRACE_DETACH, pid_, 0, 0);
    } catch (const Error&) {
      // It has ended.
    }
  }

  void stop() {
    ::ptrace(PTRACE_INTERRUPT, pid_, 0, 0);
    wait_stopped();
    ::ptrace(PTRACE_GETREGS, pid_, 0, &saved_);
    stopped_ = true;
  }
  void go() {
    ::ptrace(PTRACE_SETREGS, pid_, 0, &saved_);
    ::ptrace(PTRACE_CONT, pid_, 0, 0);
    stopped_ = false;
  }

  pid_t pid() const override { return pid_; }
  pid_t tid() const override { return pid_; }
  long syscall(long nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f) override {
    user_regs_struct regs = saved_;
    regs.rip = reinterpret_cast<uint64_t>(&ckpt_test_syscall_instruction);
    regs.orig_rax = UINT64_MAX;
    regs.rax = static_cast<uint64_t>(nr);
    regs.rdi = a, regs.rsi = b, regs.rdx = c, regs.r10 = d, regs.r8 = e, regs.r9 = f;
    ::ptrace(PTRACE_SETREGS, pid_, 0, &regs);
    ::ptrace(PTRACE_SINGLESTEP, pid_, 0, 0);
    wait_stopped();
    ::ptrace(PTRACE_GETREGS, pid_, 0, &regs);
    return static_cast<long>(regs.rax);
  }
  void read(RemotePtr from, std::span<std::byte> to) override { memory_.read(from.addr, to); }
  void write(RemotePtr to, std::span<const std::byte> from) override { memory_.write(to.addr, from); }
  RemotePtr scratch() const override { return {(saved_.rsp - 16384) & ~63ull}; }
  size_t scratch_size() const override { return 8192; }

 private:
  void wait_stopped() {
    int status = 0;
    if (::waitpid(pid_, &status, __WALL) != pid_ || !WIFSTOPPED(status)) fail(ESRCH, "{}: did not stop", pid_);
  }
  pid_t pid_;
  RemoteMemory memory_;
  user_regs_struct saved_ = {};
  bool stopped_ = false;
};

}  // namespace ckpt::test
