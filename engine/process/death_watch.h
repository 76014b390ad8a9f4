// Takes note of the ends of traced threads while the tracer is held up in a call.
#pragma once

#include <sys/types.h>

#include <condition_variable>
#include <mutex>
#include <thread>

namespace ckpt {

/// Reaps the threads of the process that have ended and are traced by any of our threads, without waiting; never its main
/// thread. Waiting for them afterwards says ECHILD.
void reap_ended_threads(int proc_dir, pid_t pid);

/// An execve(2) in one thread of a process waits until the others have ended, and a traced one has not ended before its
/// tracer has waited for it (de_thread() in fs/exec.c): also one that is traced from birth, and whose maker was killed
/// before it could tell. It holds a lock meanwhile that PTRACE_SEIZE of the next thread waits for (cred_guard_mutex):
/// tracer and process would wait for each other for ever. So while this object lives, a thread of ours reaps them.
class DeathWatch {
 public:
  /// `proc_dir` is the directory /proc/PID, which must outlive the object.
  DeathWatch(int proc_dir, pid_t pid) : thread_([this, proc_dir, pid] { run(proc_dir, pid); }) {}
  ~DeathWatch();
  DeathWatch(const DeathWatch&) = delete;
  DeathWatch& operator=(const DeathWatch&) = delete;

 private:
  void run(int proc_dir, pid_t pid);

  std::mutex mutex_;   ///< guards what follows
  std::condition_variable wake_;
  bool ends_ = false;
  std::thread thread_;
};

}  // namespace ckpt
