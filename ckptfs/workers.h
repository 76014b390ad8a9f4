// Threads for whatever may take long: commands, resumes. As many as there are jobs at once, so that a job that waits
// for another process can never keep a second one from running.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>

namespace ckpt {

/// Thread-safe. Jobs must not throw.
class Workers {
 public:
  using Job = std::function<void()>;

  Workers() = default;
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;
  /// Waits for every job.
  ~Workers();

  /// Never blocks for another job. Throws std::system_error where no thread can be had.
  void run(Job job);
  /// Waits until no job is left, jobs that are added meanwhile included.
  void wait_idle();

 private:
  void serve();

  static constexpr size_t kMaxIdle = 4;   ///< threads that wait for the next job; more than these end

  std::mutex mutex_;   ///< guards all below; no other lock is taken under it
  std::condition_variable wake_;
  std::condition_variable ended_;   ///< a thread has ended or gone idle
  std::deque<Job> jobs_;
  size_t threads_ = 0;
  size_t idle_ = 0;
  bool stopping_ = false;
};

}  // namespace ckpt
