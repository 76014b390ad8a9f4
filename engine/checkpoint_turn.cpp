#include "engine/checkpoint_turn.h"

#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>

#include "engine/base/error.h"

namespace ckpt {
namespace {

std::mutex captured_lock;
std::condition_variable captured_changed;
std::map<pid_t, bool> captured;  // guarded by captured_lock; tgid -> whether it is still touched

}  // namespace

bool being_captured(pid_t tgid) {
  const std::lock_guard guard(captured_lock);
  const auto it = captured.find(tgid);
  return it != captured.end() && it->second;
}

void CaptureTurns::take(pid_t pid, const CancelFlag* cancel) {
  std::unique_lock guard(captured_lock);
  while (!captured.emplace(pid, true).second) {
    if (cancel != nullptr && cancel->load()) fail(EINTR, "{}: the checkpoint was cancelled", pid);
    // A cancel flag wakes nobody: look at it now and then.
    captured_changed.wait_for(guard, std::chrono::milliseconds(20));
  }
  pids_.insert(pid);
}

bool CaptureTurns::try_take(pid_t pid) {
  const std::lock_guard guard(captured_lock);
  const bool taken = captured.emplace(pid, true).second;
  if (taken) pids_.insert(pid);
  return taken;
}

void CaptureTurns::give_back(pid_t pid) {
  const std::lock_guard guard(captured_lock);
  if (pids_.erase(pid) != 0) captured.erase(pid);
  captured_changed.notify_all();
}

void CaptureTurns::set_touched(bool touched) {
  const std::lock_guard guard(captured_lock);
  for (const pid_t pid : pids_) captured[pid] = touched;
}

CaptureTurns::~CaptureTurns() {
  const std::lock_guard guard(captured_lock);
  for (const pid_t pid : pids_) captured.erase(pid);
  captured_changed.notify_all();
}

}  // namespace ckpt
