#include "engine/memory/side_pages.h"

#include <sys/mman.h>

#include "engine/base/error.h"
#include "engine/image/digest.h"

namespace ckpt {

SidePages::SidePages(size_t pages) : pages_(pages) {
  void* base = ::mmap(nullptr, pages * kPageSize, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) fail_errno("mapping {} pages for a snapshot", pages);
  base_ = static_cast<std::byte*>(base);
  free_.reserve(pages);
}

SidePages::~SidePages() { ::munmap(base_, pages_ * kPageSize); }

std::byte* SidePages::take() {
  const std::lock_guard lock(mutex_);
  if (!free_.empty()) {
    std::byte* page = free_.back();
    free_.pop_back();
    return page;
  }
  return fresh_ < pages_ ? base_ + fresh_++ * kPageSize : nullptr;
}

void SidePages::give_back(std::byte* page) {
  const std::lock_guard lock(mutex_);
  free_.push_back(page);
}

size_t SidePages::free_pages() const {
  const std::lock_guard lock(mutex_);
  return free_.size() + pages_ - fresh_;
}

}  // namespace ckpt
