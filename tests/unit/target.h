// A child process to be traced by a test, which reports on itself through shared memory.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <new>
#include <thread>

#include "engine/base/error.h"
#include "engine/base/fd.h"
#include "engine/process/procfs.h"

namespace ckpt::test {

/// Waits until `ready` holds; false after `limit`.
inline bool eventually(const std::function<bool()>& ready,
                       std::chrono::milliseconds limit = std::chrono::seconds(20)) {
  const auto end = std::chrono::steady_clock::now() + limit;
  while (!ready()) {
    if (std::chrono::steady_clock::now() > end) return false;
    ::usleep(500);
  }
  return true;
}

/// For the child of a test, which may have inherited pipes and sockets: they are refused.
inline void close_all() {
  ::syscall(SYS_close_range, 0, ~0u, 0);
  for (int fd = ::open("/dev/null", O_RDWR); fd >= 0 && fd < 2;) fd = ::dup(0);
}

/// Memory that a test and its child share.
template <typename T>
class Shared {
 public:
  Shared() : memory_(::mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)) {
    new (memory_) T();
  }
  ~Shared() { ::munmap(memory_, sizeof(T)); }
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;
  T* operator->() const { return static_cast<T*>(memory_); }
  T& operator*() const { return *static_cast<T*>(memory_); }

 private:
  void* memory_;
};

/// For a child: executes sleep(1) when `report` tells it to finish.
template <typename Report>
int become_sleep(Report& report) {
  report.ready = 1;
  while (!report.finish) ::usleep(100);
  ::execlp("sleep", "sleep", "1000", nullptr);
  return 98;
}

/// Runs `body` in a child; its result is the exit status. Killed and reaped at the end, by pid.
class Child {
 public:
  explicit Child(const std::function<int()>& body, const std::function<pid_t()>& make = ::fork) : pid_(make()) {
    if (pid_ != 0) return;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    // An exception must not run on into the test: its objects here are the parent's business.
    try {
      ::_exit(body());
    } catch (...) {
      ::_exit(99);
    }
  }
  ~Child() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    // A test that has failed may trace its threads: the end of each is reported to the tracer before that of the process.
    while (::waitpid(pid_, nullptr, WNOHANG) == 0) {
      const UniqueFd dir(::open(fmt::format("/proc/{}", pid_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
      for (const pid_t tid : list_tasks(dir.get())) {
        if (tid != pid_) ::waitpid(tid, nullptr, __WALL | WNOHANG);
      }
      ::usleep(100);
    }
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  pid_t pid() const { return pid_; }
  /// Waits for its end: exit status, or 1000 + the signal that killed it.
  int join() {
    int status = 0;
    ::waitpid(pid_, &status, 0);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
  }
  bool alive() const {
    siginfo_t info{};
    return ::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == 0;
  }

 private:
  pid_t pid_;
};

}  // namespace ckpt::test
