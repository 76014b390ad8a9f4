#include "engine/memory/run_copies.h"

#include <sys/uio.h>

#include <cstring>

#include "engine/base/parallel.h"

namespace ckpt {
namespace {

/// Below this a second thread costs more than it brings.
constexpr uint64_t kManyBytes = 4 << 20;
/// Copied at a time by one thread; runs of one call.
constexpr uint64_t kPortion = 1 << 20;
constexpr size_t kRunsOfACall = 256;

}  // namespace

void RunCopies::reserve(uint64_t bytes) {
  if (bytes <= room_) return;
  std::unique_ptr<std::byte[]> larger(new std::byte[bytes]);
  if (copied_ > 0) std::memcpy(larger.get(), memory_at_.get(), copied_);
  memory_at_ = std::move(larger);
  room_ = bytes;
  for (uint64_t at = copied_; at < bytes; at += kPageSize) memory_at_[at] = std::byte{0};
}

uint64_t RunCopies::add(Range run) {
  rest_.push_back(run);
  bytes_ += run.size();
  return bytes_ - run.size();
}

void RunCopies::copy_rest() {
  struct Portion {
    std::span<const Range> runs;
    uint64_t to;
  };
  reserve(bytes_);
  std::vector<Portion> portions;
  uint64_t to = copied_;
  for (size_t i = 0; i < rest_.size();) {
    const size_t first = i;
    const uint64_t start = to;
    for (; i < rest_.size() && i - first < kRunsOfACall && to - start < kPortion; ++i) to += rest_[i].size();
    portions.push_back({std::span(rest_).subspan(first, i - first), start});
  }
  for_each_index(portions.size(), bytes_ - copied_ >= kManyBytes ? 0 : SIZE_MAX,
                 [&](size_t i) { copy_runs(portions[i].runs, portions[i].to); });
  copied_ = bytes_;
  rest_.clear();
}

bool RunCopies::try_copy_rest() noexcept {
  try {
    copy_rest();
    return true;
  } catch (const std::exception&) {
    bytes_ = copied_;
    rest_.clear();
    return false;
  }
}

void RunCopies::copy_runs(std::span<const Range> runs, uint64_t to) {
  std::vector<iovec> from;
  uint64_t bytes = 0;
  for (const Range& run : runs) {
    from.push_back({reinterpret_cast<void*>(run.start), run.size()});
    bytes += run.size();
  }
  const iovec local{memory_at_.get() + to, bytes};
  if (::process_vm_readv(memory_.pid(), &local, 1, from.data(), from.size(), 0) == static_cast<ssize_t>(bytes)) return;
  // Not readable for the process itself, for one (PROT_NONE).
  for (const Range& run : runs) {
    memory_.read(run.start, {memory_at_.get() + to, run.size()});
    to += run.size();
  }
}

}  // namespace ckpt
