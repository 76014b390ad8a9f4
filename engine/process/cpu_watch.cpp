#include "engine/process/cpu_watch.h"

#include <cmath>
#include <optional>
#include <thread>

namespace ckpt {
namespace {

std::optional<std::chrono::nanoseconds> cpu_time(clockid_t clock) {
  timespec t = {};
  if (::clock_gettime(clock, &t) != 0) return std::nullopt;
  return std::chrono::seconds(t.tv_sec) + std::chrono::nanoseconds(t.tv_nsec);
}

}  // namespace

CpuWatch::CpuWatch(pid_t pid)
    : known_(::clock_getcpuclockid(pid, &clock_) == 0), since_(std::chrono::steady_clock::now()) {
  used_before_ = cpu_time(clock_).value_or(std::chrono::nanoseconds(0));
}

bool CpuWatch::a_cpu_is_free() const {
  // A thread that is stopped now and then, or waits for the pages that we protect, runs for a part of the time only.
  constexpr double kIdle = 0.2;
  const auto used = cpu_time(clock_);
  if (!known_ || !used) return false;
  const std::chrono::duration<double> busy = *used - used_before_, all = std::chrono::steady_clock::now() - since_;
  const double cpus = std::ceil(busy / all - kIdle);
  return 1 + cpus < std::thread::hardware_concurrency();
}

}  // namespace ckpt
