// A bounded store of single pages: what had to be copied before its turn.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

namespace ckpt {

/// Thread-safe. Memory is taken from the system as pages are used and given back at the end.
class SidePages {
 public:
  explicit SidePages(size_t pages);
  SidePages(const SidePages&) = delete;
  ~SidePages();

  /// A page of kPageSize bytes, or nullptr where all are in use.
  std::byte* take();
  void give_back(std::byte* page);
  size_t free_pages() const;

 private:
  const size_t pages_;
  std::byte* base_;
  mutable std::mutex mutex_;           // guards what follows
  std::vector<std::byte*> free_;       ///< pages used before
  size_t fresh_ = 0;                   ///< pages from here on were never used
};

}  // namespace ckpt
