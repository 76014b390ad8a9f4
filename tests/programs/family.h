// For programs of several processes. Each waits for DIR/go by itself and checks what is its own; the first one waits for
// the others, and passes when all of them have.
#pragma once

#include <sys/wait.h>

#include <atomic>
#include <vector>

#include "selfcheck.h"

namespace selfcheck {

/// Told by every process when it is set up.
class Roll {
 public:
  Roll() { must(pipe2(ends_, O_CLOEXEC), "pipe2"); }
  /// Last thing in a process before it waits: it has neither end afterwards.
  void here() {
    here_but_open();
    leave();
  }
  /// The same of one whose descriptors are another's too.
  void here_but_open() const { REQUIRE(write(ends_[1], "x", 1) == 1, "the roll: %s", strerror(errno)); }
  void leave() {
    close(ends_[0]);
    close(ends_[1]);
  }
  /// In the first process.
  void wait_for(int others) {
    close(ends_[1]);
    char c;
    for (; others > 0; --others) {
      const ssize_t n = read(ends_[0], &c, 1);
      if (n != 1 && access(path("result").c_str(), F_OK) == 0) _exit(1);  // it has said why
      REQUIRE(n == 1, "a process has ended early");
    }
    close(ends_[0]);
  }

 private:
  int ends_[2];
};

/// A child that runs `body` and ends with 0.
inline pid_t child(const std::function<void()>& body) {
  const pid_t pid = must(fork(), "fork");
  if (pid != 0) return pid;
  body();
  _exit(0);
}

/// Waits for a child that must end well. One that has failed has said so.
inline void join(pid_t pid) {
  int status = 0;
  pid_t got;
  do got = waitpid(pid, &status, __WALL);
  while (got < 0 && errno == EINTR);
  REQUIRE(got == pid, "waiting for %d: %s", pid, strerror(errno));
  if (WIFEXITED(status) && WEXITSTATUS(status) == 1) _exit(1);
  REQUIRE(status == 0, "process %d has ended with %#x", pid, status);
}

/// What a process is to others; taken when it is set up, and compared after DIR/go.
struct Place {
  pid_t pid = getpid(), parent = getppid(), group = getpgrp(), session = getsid(0);
  void require_same(const char* who) const {
    REQUIRE(getpid() == pid, "%s: pid %d, not %d", who, getpid(), pid);
    REQUIRE(getppid() == parent, "%s: parent %d, not %d", who, getppid(), parent);
    REQUIRE(getpgrp() == group, "%s: group %d, not %d", who, getpgrp(), group);
    REQUIRE(getsid(0) == session, "%s: session %d, not %d", who, getsid(0), session);
  }
};

/// Waits for DIR/go and compares.
inline void wait_in_place(const char* who, const std::function<void()>& meanwhile = {}) {
  const Place place;
  wait_for_go(meanwhile);
  place.require_same(who);
}

}  // namespace selfcheck
