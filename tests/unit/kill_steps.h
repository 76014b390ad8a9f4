// Ends a process at a chosen step of what it does to others, as if the machine had killed it there.
#pragma once

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstddef>
#include <functional>
#include <vector>

namespace ckpt::test {

struct KilledAt {
  int steps = 0;         ///< that were counted, the one that was not made included
  bool killed = false;   ///< else the work was over before
  int status = 0;        ///< wait status of a process that ended by itself
};

namespace kill_steps {

/// Lets the tracer look at every system call by which one process changes another, and at no other.
inline bool stop_at_steps() {
  constexpr auto load = [](size_t offset) {
    return sock_filter BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(offset));
  };
  constexpr auto equal = [](long value, uint8_t yes, uint8_t no) {
    return sock_filter BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(value), yes, no);
  };
  constexpr std::array<long, 6> calls = {SYS_ioctl, SYS_process_vm_writev, SYS_pwrite64, SYS_pidfd_getfd, SYS_sendmsg,
                                         SYS_kill};
  constexpr std::array<long, 7> requests = {PTRACE_SEIZE,  PTRACE_INTERRUPT, PTRACE_CONT,  PTRACE_SYSCALL,
                                            PTRACE_DETACH, PTRACE_SETREGSET, PTRACE_SETSIGMASK};
  std::vector<sock_filter> program = {load(offsetof(seccomp_data, nr))};
  const auto trace_at = [&](size_t from_end) { return static_cast<uint8_t>(from_end); };
  // ptrace: go on to its requests, which stand behind the other calls.
  program.push_back(equal(SYS_ptrace, static_cast<uint8_t>(calls.size() + 1), 0));
  for (size_t i = 0; i < calls.size(); ++i) {
    program.push_back(equal(calls[i], trace_at(calls.size() - i + requests.size() + 2), 0));
  }
  program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  program.push_back(load(offsetof(seccomp_data, args)));
  for (size_t i = 0; i < requests.size(); ++i) program.push_back(equal(requests[i], trace_at(requests.size() - i), 0));
  program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE));
  sock_fprog filter = {static_cast<unsigned short>(program.size()), program.data()};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

}  // namespace kill_steps

/// Runs `work` in a child and kills it when it, or a thread of it, is about to make its `step`-th step (from 1). Waits
/// until it has gone.
inline KilledAt kill_at_step(int step, const std::function<void()>& work) {
  int go[2];
  if (::pipe(go) != 0) return {};
  const pid_t child = ::fork();
  if (child == 0) {
    ::setpgid(0, 0);
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    char byte = 0;
    if (::read(go[0], &byte, 1) != 1 || !kill_steps::stop_at_steps()) ::_exit(98);
    try {
      work();
    } catch (const std::exception& e) {
      std::fprintf(stderr, "the work of the process that was to be killed: %s\n", e.what());
      ::_exit(97);
    }
    ::_exit(0);
  }
  ::setpgid(child, child);
  ::ptrace(PTRACE_SEIZE, child, 0, PTRACE_O_TRACESECCOMP | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_EXITKILL);
  const bool told = ::write(go[1], "g", 1) == 1;
  ::close(go[0]);
  ::close(go[1]);
  if (!told) ::kill(child, SIGKILL);
  KilledAt result;
  for (;;) {
    int status = 0;
    const pid_t task = ::waitpid(-child, &status, __WALL);
    if (task < 0 && errno == EINTR) continue;
    if (task < 0) return result;
    if (!WIFSTOPPED(status)) {
      if (task == child) result.status = status;
      continue;
    }
    const int event = status >> 16;
    if (event == PTRACE_EVENT_SECCOMP && ++result.steps == step) {
      result.killed = true;
      ::kill(child, SIGKILL);
      continue;
    }
    ::ptrace(PTRACE_CONT, task, 0, event == 0 ? WSTOPSIG(status) : 0);
  }
}

}  // namespace ckpt::test
