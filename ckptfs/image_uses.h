// Which images are being read just now: what thins out a series leaves those alone.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>

namespace ckpt {

/// A copy of an image opens its directories and files one after the other, by name, and would end in an error where the
/// image is deleted in between. In use is an image that has a file open, or in which a file or directory was opened
/// within the last ten seconds. The manifest does not count, so that lists of images (`ckpt ls`) use none. Thread-safe.
class ImageUses {
 public:
  using Lease = std::shared_ptr<const void>;

  /// Error(ENOENT) where it is being removed.
  void touch(uint64_t image_id);
  /// The same, and in use as long as the lease is held, which must not outlive this object.
  Lease hold(uint64_t image_id);

  /// For who is about to delete an image: false where it is in use, else nobody begins to use it before release().
  bool claim(uint64_t image_id);
  void release(uint64_t image_id);

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::seconds kPatience{10};

  struct Use {
    uint32_t holders = 0;
    bool claimed = false;
    Clock::time_point last{};

    bool recent(Clock::time_point now) const { return holders > 0 || now - last < kPatience; }
  };
  Use& touched(uint64_t image_id);   // with mutex_ held

  std::mutex mutex_;                 ///< innermost
  std::map<uint64_t, Use> uses_;
  size_t prune_at_ = 64;
};

}  // namespace ckpt
