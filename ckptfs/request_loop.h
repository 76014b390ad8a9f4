// Reads the kernel's requests and has them answered: by one thread for as long as answers are quick, by more where they are not.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <list>
#include <mutex>
#include <thread>

#include "ckptfs/fuse_api.h"
#include "engine/base/fd.h"

namespace ckpt {

/// libfuse's own loop gives every request to the thread that has waited longest, mostly on another CPU and with cold caches:
/// a copy of many small files takes half as long again. Here one thread reads and answers in turn. Another becomes the
/// reader where a request moves much data, or as soon as one has been in hand for a while (watch()), so that no request
/// ever waits for good for one that came before it.
class RequestLoop {
 public:
  /// `session` must be mounted, and outlive the loop.
  RequestLoop(fuse_session* session, unsigned max_threads);
  ~RequestLoop();
  RequestLoop(const RequestLoop&) = delete;
  RequestLoop& operator=(const RequestLoop&) = delete;

  /// Serves until the filesystem is unmounted, or a signal whose handler ends the session comes to the calling thread; such
  /// signals must be blocked in it, and are let in while it waits. All requests under way are answered when it comes back.
  /// `before_end` is called once when that has come, while requests are still answered. Returns 0, or the negative errno of what
  /// ended it by itself. Throws Error where no thread can be made.
  int run(const std::function<void()>& before_end);

 private:
  void start_thread();                     ///< with mutex_ held
  void serve();
  bool become_reader();                    ///< waits; false at the end
  void hand_over();                        ///< the calling thread reads no longer: the next one does
  int receive(fuse_buf& buffer);           ///< as fuse_session_receive_buf
  void read_in_turn(fuse_buf& buffer);     ///< until somebody else is the reader, or the end
  void leave(int got);                     ///< the reader has nothing more to read: `got` is 0 or a negative errno
  void watch();
  void end();

  fuse_session* session_;
  const unsigned max_threads_;
  UniqueFd ended_event_;                   ///< an eventfd: the session has ended by itself
  std::atomic<bool> ended_ = false;

  std::mutex mutex_;                       ///< guards what follows
  std::condition_variable changed_;
  std::list<std::thread> threads_;
  unsigned idle_ = 0;
  unsigned left_ = 0;                      ///< threads that have returned
  bool reading_ = false;                   ///< somebody is the reader
  pthread_t reader_ = {};                  ///< who that is
  int error_ = 0;

  /// Twice the number of the newest request, and 1 while the reader has it in hand. Who takes the 1 away, the reader or
  /// watch(), decides who reads on.
  std::atomic<uint64_t> progress_ = 0;
  std::atomic<uint32_t> watched_ = 0;      ///< watch() looks; else it sleeps until it is set
  std::thread watcher_;
};

}  // namespace ckpt
