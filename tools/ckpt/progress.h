// Progress of long work, on a terminal only: one line on stderr that is rewritten and removed at the end.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

#include "engine/store/store.h"

namespace ckpt::tool {

/// "sealing: 412 MiB of 1.00 GiB, 40%". Nothing is printed in the first half second. One thread at a time.
class ProgressLine {
 public:
  explicit ProgressLine(std::string label);
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;
  ~ProgressLine();
  void update(uint64_t done, uint64_t total);
  /// As the engine wants it; refers to this object.
  Progress callback();

 private:
  std::string label_;
  bool terminal_;
  bool shown_ = false;
  std::chrono::steady_clock::time_point next_;
};

/// "1234: 3 s", once a second while a call blocks that reports nothing. Lives on a thread of its own.
class Waiting {
 public:
  explicit Waiting(std::string label);
  Waiting(const Waiting&) = delete;
  Waiting& operator=(const Waiting&) = delete;
  ~Waiting();

 private:
  void run(const std::string& label);
  std::mutex mutex_;
  std::condition_variable changed_;
  bool done_ = false;   ///< under mutex_
  std::thread thread_;  ///< not started unless stderr is a terminal
};

}  // namespace ckpt::tool
