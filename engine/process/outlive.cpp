#include "engine/process/outlive.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <memory>

#include "engine/base/error.h"
#include "engine/process/bare.h"

namespace ckpt {

namespace {

struct Task {
  void (*work)(void*);
  void* argument;
};

// Bare: a sanitizer would take the end of this stack, which it does not know, for a broken one.
CKPT_BARE int run(void* task) {
  const auto* t = static_cast<const Task*>(task);
  setsid();
  t->work(t->argument);
  _exit(0);
}

}  // namespace

void outlive(void (*work)(void*), void* argument) {
  constexpr size_t kStack = 256 << 10;
  const auto stack = std::make_unique<std::array<char, kStack>>();
  Task task = {work, argument};
  // The child has our signal mask, and must not run our handlers.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  // CLONE_VFORK: this thread, whose thread-local storage the child uses, stands still meanwhile.
  const pid_t child = clone(run, stack->data() + kStack, CLONE_VM | CLONE_FILES | CLONE_VFORK, &task);
  const int err = errno;
  if (child > 0) {
    while (waitpid(child, nullptr, __WALL) < 0 && errno == EINTR) {
    }
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  errno = err;
  if (child < 0) fail_errno("a process for work that must be finished");
}

}  // namespace ckpt
