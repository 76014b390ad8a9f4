// For tests of the ioctls of /dev/ckpt: the device, and a process to ask about.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>

namespace ckpt_test {

/// A child that runs `body`, then waits to be killed.
class Child {
 public:
  explicit Child(const std::function<void()>& body) {
    int ready[2];
    EXPECT_EQ(pipe(ready), 0);
    pid_ = fork();
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      body();
      close(ready[0]);
      close(ready[1]);
      for (;;) pause();
    }
    close(ready[1]);
    char end;
    EXPECT_EQ(read(ready[0], &end, 1), 0);
    close(ready[0]);
  }
  ~Child() { end(); }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  void end() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = 0;
};

inline int open_device(int flags = O_RDONLY) { return open("/dev/ckpt", flags | O_CLOEXEC); }

inline uint64_t address(const void* p) { return reinterpret_cast<uint64_t>(p); }

}  // namespace ckpt_test
