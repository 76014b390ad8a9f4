// What a resume makes in the system outside of its processes (the file of a socket, a segment, a queue), and what takes it
// away again: where the resume fails, and where this process is killed in the middle of it.
//
//   traces.guard({SYS_shmctl, {id, IPC_RMID}});          // before it is made
//   make();
//   traces.made([id] { shmctl(id, IPC_RMID, nullptr); });
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/base/fd.h"
#include "engine/process/death_guard.h"

namespace ckpt {

/// All by one thread, which also destroys it. What has not been taken back stays.
class Traces {
 public:
  Traces() = default;
  Traces(const Traces&) = delete;
  Traces& operator=(const Traces&) = delete;

  /// From here on our death makes the call. Descriptors that it names must stay open (keep_open). Throws Error.
  void guard(const DeathGuard::Call& call) { guard_all({call}); }
  /// The same for several, in this order.
  void guard_all(const std::vector<DeathGuard::Call>& calls);
  /// A string for the arguments of such a call, as they take it.
  long keep(std::string text);
  /// A descriptor that such a call names; returns its number.
  int keep_open(std::shared_ptr<const UniqueFd> fd);
  /// It is there: what take_back() is to do, which may not throw.
  void made(std::function<void()> work) { undo_.push_back(std::move(work)); }
  /// Does it all, the last first.
  void take_back() noexcept;

  /// For who guards them together with the processes, from let_go() of these on.
  const std::vector<DeathGuard::Call>& calls() const { return calls_; }
  void disarm() noexcept { guard_.reset(); }

 private:
  // Before guard_, which goes first.
  std::deque<std::string> strings_;
  std::vector<std::shared_ptr<const UniqueFd>> descriptors_;
  std::vector<DeathGuard::Call> calls_;
  std::unique_ptr<DeathGuard> guard_;
  std::vector<std::function<void()>> undo_;
};

}  // namespace ckpt
