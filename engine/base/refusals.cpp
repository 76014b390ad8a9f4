#include "engine/base/refusals.h"

#include <fmt/ranges.h>

#include <algorithm>

namespace ckpt {

void Refusals::add(const Error& refusal) {
  if (std::ranges::find(sentences_, refusal.sentence()) != sentences_.end()) return;
  if (sentences_.size() == kMost) {
    ++more_;
    return;
  }
  if (empty()) err_ = refusal.err();
  sentences_.push_back(refusal.sentence());
}

std::string Refusals::text() const {
  std::string all = fmt::format("{}", fmt::join(sentences_, "; "));
  return more_ == 0 ? all : fmt::format("{}; and {} more", all, more_);
}

void Refusals::raise() const {
  if (!empty()) throw Error(err_, text());
}

}  // namespace ckpt
