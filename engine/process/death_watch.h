// Takes note of the ends of traced threads while the tracer is held up in a call.
#pragma once

#include <sys/types.h>

#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace ckpt {

/// An execve(2) in one thread of a process waits until the others have ended, and a traced one has not ended before its
/// tracer has waited for it (de_thread() in fs/exec.c). It holds a lock meanwhile that PTRACE_SEIZE of the next thread
/// waits for (cred_guard_mutex): tracer and process would wait for each other for ever. So while this object lives, a
/// thread of ours reaps those of the threads that end, whoever of our threads traces them; waiting for them afterwards
/// says ECHILD.
class DeathWatch {
 public:
  /// Of threads that are seized already.
  explicit DeathWatch(std::vector<pid_t> tids) : tids_(std::move(tids)), thread_([this] { run(); }) {}
  ~DeathWatch();
  DeathWatch(const DeathWatch&) = delete;
  DeathWatch& operator=(const DeathWatch&) = delete;

  /// A thread that has been seized.
  void add(pid_t tid);

 private:
  void run();

  std::mutex mutex_;   ///< guards what follows
  std::condition_variable wake_;
  bool ends_ = false;
  std::vector<pid_t> tids_;
  std::thread thread_;
};

}  // namespace ckpt
