// What RocksDB does not tell: whether a flush has been handed to its thread and has not begun.
#pragma once

#include <rocksdb/env.h>

#include <atomic>

namespace ckpt {

/// The default environment; flushes, which alone RocksDB runs with high priority, are counted. Thread-safe.
class FlushEnv : public rocksdb::EnvWrapper {
 public:
  /// The one of this program: a thread of RocksDB may still return through it when the database is closed.
  static FlushEnv& get();

  void Schedule(void (*function)(void*), void* argument, Priority priority, void* tag,
                void (*when_dropped)(void*)) override;
  /// Those that are handed out and have not returned, begun or not.
  int handed_out() const { return handed_out_; }
  /// Whether the calling thread is one of them.
  static bool in_flush() { return in_flush_; }

 private:
  struct Job;
  FlushEnv();

  std::atomic<int> handed_out_ = 0;
  static thread_local bool in_flush_;
};

}  // namespace ckpt
