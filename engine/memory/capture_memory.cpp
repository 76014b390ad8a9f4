#include "engine/memory/capture_memory.h"

#include <algorithm>
#include <exception>
#include <mutex>

#include "engine/base/parallel.h"
#include "engine/memory/pieces.h"

namespace ckpt {
namespace {

/// Below this a second thread costs more than it brings.
constexpr uint64_t kParallelBytes = 4 << 20;

/// The queue of blocks that the workers share. They are given out ascending, those of one piece of a snapshot together:
/// two workers in one piece would wait for each other. A segment's sink is let go with its last block, so that the
/// image can finish it.
class BlockQueue {
 public:
  BlockQueue(std::vector<Range> ranges, ImageSink& image, std::string prefix, const CancelFlag* cancel)
      : ranges_(std::move(ranges)), image_(image), prefix_(std::move(prefix)), cancel_(cancel) {}

  struct Blocks {
    std::shared_ptr<BlockSink> sink;
    uint64_t first = 0;
    Range range;
  };

  /// The next blocks, or nothing at the end or after an error of any worker. Throws Error(EINTR).
  std::optional<Blocks> next() {
    const std::lock_guard lock(mutex_);
    if (error_) return std::nullopt;
    if (cancel_ && cancel_->load(std::memory_order_relaxed)) fail(EINTR, "the checkpoint was cancelled");
    if (segment_ == ranges_.size()) return std::nullopt;
    const Range range = ranges_[segment_];
    if (!sink_) sink_ = image_.create(prefix_ + "segments/" + range_name(range), range.size());
    Blocks blocks{sink_, index_, {range.start + index_ * kBlockSize, 0}};
    const uint64_t piece_end = (blocks.range.start / kPieceBytes + 1) * kPieceBytes;
    const uint64_t count = (piece_end - blocks.range.start + kBlockSize - 1) / kBlockSize;
    blocks.range.end = std::min(blocks.range.start + count * kBlockSize, range.end);
    index_ += count;
    if (blocks.range.end == range.end) {
      segment_++;
      index_ = 0;
      sink_.reset();
    }
    return blocks;
  }

  void set_error(std::exception_ptr error) {
    const std::lock_guard lock(mutex_);
    if (!error_) error_ = std::move(error);
  }
  void rethrow() {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  const std::vector<Range> ranges_;
  ImageSink& image_;
  const std::string prefix_;
  const CancelFlag* const cancel_;
  std::mutex mutex_;   // guards what follows
  size_t segment_ = 0;
  uint64_t index_ = 0;
  std::shared_ptr<BlockSink> sink_;
  std::exception_ptr error_;
};

void copy_blocks(Snapshot& snapshot, BlockQueue& queue) {
  try {
    std::vector<std::byte> buffer(kBlockSize);
    while (const auto blocks = queue.next()) {
      uint64_t index = blocks->first;
      for (uint64_t at = blocks->range.start; at < blocks->range.end; at += kBlockSize) {
        const Range block{at, std::min(at + kBlockSize, blocks->range.end)};
        const std::span<std::byte> data(buffer.data(), block.size());
        snapshot.read(block, data);
        const std::vector<SamePages> same = snapshot.unchanged(block);
        if (same.empty()) {
          blocks->sink->put_block(index++, data);
        } else {
          blocks->sink->put_block(index++, data, *snapshot.base(), same);
        }
      }
    }
  } catch (...) {
    queue.set_error(std::current_exception());
  }
}

}  // namespace

CapturedMemory capture_memory(Snapshot& snapshot, const std::vector<Vma>& vmas, ImageSink& image,
                              const std::string& prefix, const CancelFlag* cancel, bool second_thread) {
  CapturedMemory result;
  std::vector<Range> ranges;
  for (const Vma& vma : vmas) {
    // MAP_DROPPABLE: the kernel may drop it at any time. It holds the state of random numbers (getrandom in the
    // vDSO), which must not come a second time.
    if (vma.has_flag("dp")) continue;
    for (const Range& range : snapshot.touched(vma)) {
      ranges.push_back(range);
      result.bytes += range.size();
    }
  }
  result.segments = ranges.size();
  BlockQueue queue(std::move(ranges), image, prefix, cancel);
  on_two_threads(result.bytes > kParallelBytes && second_thread, [&] { copy_blocks(snapshot, queue); });
  queue.rethrow();
  return result;
}

}  // namespace ckpt
