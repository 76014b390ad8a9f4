// Work that is the same for many items, on two threads.
#pragma once

#include <atomic>
#include <cstddef>
#include <exception>
#include <mutex>
#include <thread>

#include "engine/base/sched.h"

namespace ckpt {

/// Runs work() here and, where `both`, on a second thread beside it; returns when both are done. It must not throw.
template <typename F>
void on_two_threads(bool both, const F& work) {
  std::thread second;
  if (both) second = std::thread(work);
  work();
  if (second.joinable()) second.join();
}

/// Runs work() in a thread of its own, and waits for its end. What it throws is thrown here.
template <typename F>
void in_thread(const F& work) {
  std::exception_ptr error;
  std::thread([&] {
    try {
      work();
    } catch (...) {
      error = std::current_exception();
    }
  }).join();
  if (error) std::rethrow_exception(error);
}

/// The same in one that gives way (sched.h), while the calling thread must go on as before.
template <typename F>
void in_thread_that_gives_way(const F& work) {
  in_thread([&] {
    give_way();
    work();
  });
}

/// Calls each(i) for every i below `count`, in ascending order on this thread, and from a second one beside it where
/// there are at least `worth` items and a second CPU. Returns when all are done. After an exception no further item is
/// begun, and the first one is thrown again here.
template <typename F>
void for_each_index(size_t count, size_t worth, const F& each) {
  std::atomic<size_t> next = 0;
  std::mutex mutex;
  std::exception_ptr error;   // guarded by mutex
  const auto work = [&] {
    try {
      for (size_t i = next++; i < count; i = next++) each(i);
    } catch (...) {
      next = count;
      const std::lock_guard lock(mutex);
      if (!error) error = std::current_exception();
    }
  };
  on_two_threads(count >= worth && std::thread::hardware_concurrency() > 1, work);
  if (error) std::rethrow_exception(error);
}

}  // namespace ckpt
