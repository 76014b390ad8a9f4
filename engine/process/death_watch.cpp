#include "engine/process/death_watch.h"

#include <sys/wait.h>

#include <chrono>

namespace ckpt {

DeathWatch::~DeathWatch() {
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void DeathWatch::add(pid_t tid) {
  const std::lock_guard lock(mutex_);
  tids_.push_back(tid);
}

void DeathWatch::run() {
  // Mostly the tracer is through before the first time is up.
  constexpr std::chrono::milliseconds kInterval{20};
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, kInterval, [this] { return ends_; })) {
    for (const pid_t tid : tids_) {
      siginfo_t info{};
      ::waitid(P_PID, static_cast<id_t>(tid), &info, WEXITED | WNOHANG | __WALL);
    }
  }
}

}  // namespace ckpt
