#include "engine/process/traces.h"

namespace ckpt {

void Traces::guard_all(const std::vector<DeathGuard::Call>& calls) {
  calls_.insert(calls_.end(), calls.begin(), calls.end());
  // The old one goes when the new one stands.
  guard_ = std::make_unique<DeathGuard>(calls_);
}

long Traces::keep(std::string text) {
  strings_.push_back(std::move(text));
  return reinterpret_cast<long>(strings_.back().c_str());
}

int Traces::keep_open(std::shared_ptr<const UniqueFd> fd) {
  descriptors_.push_back(std::move(fd));
  return descriptors_.back()->get();
}

void Traces::take_back() noexcept {
  for (auto work = undo_.rbegin(); work != undo_.rend(); ++work) (*work)();
  guard_.reset();
  undo_.clear();
  calls_.clear();
  strings_.clear();
  descriptors_.clear();
}

}  // namespace ckpt
