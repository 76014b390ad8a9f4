// What this mount has done so far, for stats.
#pragma once

#include <atomic>
#include <cstdint>

namespace ckpt {

struct Counters {
  std::atomic<uint64_t> checkpoints{0};
  std::atomic<uint64_t> kernel_checkpoints{0};   ///< of them by the kernel module
  std::atomic<uint64_t> incremental_checkpoints{0};   ///< of them those that read only what was written since
  std::atomic<uint64_t> failed_checkpoints{0};
  std::atomic<uint64_t> failed_in_series{0};     ///< of the failed ones, those that a series went on after
  std::atomic<uint64_t> resumes{0};
  std::atomic<uint64_t> failed_resumes{0};
  std::atomic<uint64_t> imports{0};
};

}  // namespace ckpt
