#include "engine/memory/side_pages.h"

#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "engine/base/error.h"
#include "engine/image/digest.h"

namespace ckpt {
namespace {

/// Pages in a file: as many as may be of the disk. None where it cannot be asked.
size_t room_in(int file) {
  constexpr uint64_t kMost = UINT32_MAX / 2;
  struct statvfs fs = {};
  if (::fstatvfs(file, &fs) != 0) return 0;
  if (fs.f_blocks == 0) return kMost;  // a tmpfs without a limit
  return std::min(uint64_t{fs.f_bavail} * fs.f_frsize / 4 / kPageSize, kMost);
}

}  // namespace

SidePages::SidePages(size_t pages, ScratchFile scratch) : pages_(pages), scratch_(std::move(scratch)), limit_(pages) {
  void* base = ::mmap(nullptr, pages * kPageSize, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) fail_errno("mapping {} pages for a snapshot", pages);
  base_ = static_cast<std::byte*>(base);
  free_.reserve(pages);
}

SidePages::~SidePages() { ::munmap(base_, pages_ * kPageSize); }

bool SidePages::open_scratch() {
  if (!scratch_) return false;
  file_ = std::exchange(scratch_, {})();
  if (file_) limit_ += room_in(file_.get());
  return fresh_ < limit_;
}

bool SidePages::keep_in_file(Slot slot, std::span<const std::byte> page) {
  const auto at = static_cast<off_t>((slot - pages_) * kPageSize);
  return ::pwrite(file_.get(), page.data(), page.size(), at) == static_cast<ssize_t>(page.size());
}

std::optional<SidePages::Slot> SidePages::keep(std::span<const std::byte> page) {
  std::unique_lock lock(mutex_);
  Slot slot = 0;
  if (!free_.empty()) {
    slot = free_.back();
    free_.pop_back();
  } else if (!free_in_file_.empty()) {
    slot = free_in_file_.back();
    free_in_file_.pop_back();
  } else if (fresh_ < limit_ || open_scratch()) {
    slot = static_cast<Slot>(fresh_++);
  } else {
    return std::nullopt;
  }
  lock.unlock();
  if (slot < pages_) {
    std::memcpy(base_ + slot * kPageSize, page.data(), kPageSize);
  } else if (!keep_in_file(slot, page)) {
    // The disk is full: no more than this from now on.
    lock.lock();
    limit_ = std::min(limit_, fresh_);
    free_in_file_.clear();
    return std::nullopt;
  }
  return slot;
}

void SidePages::take(Slot slot, std::byte* out) {
  if (slot < pages_) {
    std::memcpy(out, base_ + slot * kPageSize, kPageSize);
  } else {
    const ssize_t got = ::pread(file_.get(), out, kPageSize, static_cast<off_t>((slot - pages_) * kPageSize));
    if (got != static_cast<ssize_t>(kPageSize)) fail(EIO, "a page of a snapshot cannot be read back from its file");
  }
  drop(slot);
}

void SidePages::drop(Slot slot) {
  const std::lock_guard lock(mutex_);
  (slot < pages_ ? free_ : free_in_file_).push_back(slot);
}

size_t SidePages::free_pages() const {
  const std::lock_guard lock(mutex_);
  return free_.size() + free_in_file_.size() + limit_ - std::min(fresh_, limit_);
}

}  // namespace ckpt
