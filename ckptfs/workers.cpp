#include "ckptfs/workers.h"

#include <thread>

namespace ckpt {

Workers::~Workers() {
  std::unique_lock lock(mutex_);
  stopping_ = true;
  wake_.notify_all();
  ended_.wait(lock, [this] { return threads_ == 0; });
}

void Workers::run(Job job) {
  const std::unique_lock lock(mutex_);
  jobs_.push_back(std::move(job));
  if (idle_ >= jobs_.size()) {
    wake_.notify_one();
    return;
  }
  try {
    std::thread([this] { serve(); }).detach();
  } catch (...) {
    jobs_.pop_back();
    throw;
  }
  ++threads_;
}

void Workers::wait_idle() {
  std::unique_lock lock(mutex_);
  ended_.wait(lock, [this] { return jobs_.empty() && threads_ == idle_; });
}

void Workers::serve() {
  std::unique_lock lock(mutex_);
  for (;;) {
    while (!jobs_.empty()) {
      Job job = std::move(jobs_.front());
      jobs_.pop_front();
      lock.unlock();
      job();
      job = nullptr;  // what it holds goes before the lock is taken
      lock.lock();
    }
    if (stopping_ || idle_ >= kMaxIdle) break;
    ++idle_;
    ended_.notify_all();
    wake_.wait(lock, [this] { return stopping_ || !jobs_.empty(); });
    --idle_;
  }
  --threads_;
  // Under the lock, so that the destructor cannot go on before this thread is done with the object.
  ended_.notify_all();
}

}  // namespace ckpt
