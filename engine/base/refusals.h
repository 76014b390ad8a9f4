// All that stands in the way of something, rather than the first of it:
//
//   Refusals refusals;
//   for (const Vma& vma : vmas) refusals.collect([&] { refuse_mapping(vma); });
//   refusals.raise();
#pragma once

#include <string>
#include <vector>

#include "engine/base/error.h"

namespace ckpt {

/// What checks have found, in their order and each once. Not thread-safe.
class Refusals {
 public:
  /// More than these are only counted.
  static constexpr size_t kMost = 200;

  /// Runs a check and notes its refusal: an Error with EOPNOTSUPP, EBUSY or EPERM. Every other goes through. Returns
  /// whether it went well.
  template <typename F>
  bool collect(F&& check) {
    try {
      check();
      return true;
    } catch (const Error& e) {
      if (e.err() != EOPNOTSUPP && e.err() != EBUSY && e.err() != EPERM) throw;
      add(e);
      return false;
    }
  }
  void add(const Error& refusal);
  void clear() { *this = {}; }

  bool empty() const { return sentences_.empty(); }
  size_t count() const { return sentences_.size() + more_; }
  /// The sentences, with "; " between them.
  std::string text() const;
  /// Throws Error with the errno of the first refusal and the sentences of all. Does nothing where there is none.
  void raise() const;

 private:
  int err_ = 0;
  std::vector<std::string> sentences_;
  size_t more_ = 0;
};

}  // namespace ckpt
