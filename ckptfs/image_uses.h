// Which images are being read just now: what thins out a series leaves those alone.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

namespace ckpt {

/// A copy of an image opens its directories and files one after the other, by name, and would end in an error where the
/// image is deleted in between. In use is an image that has a file open, or in which a file or directory was opened
/// within the last ten seconds. The manifest does not count, so that lists of images (`ckpt ls`) use none. Thread-safe.
class ImageUses {
 public:
  using Lease = std::shared_ptr<const void>;
  static constexpr std::chrono::seconds kPatience{10};

  /// As long as it lives nobody begins to use the image, and not afterwards either where the image is gone. Must not outlive
  /// its ImageUses.
  class Claim {
   public:
    Claim() = default;
    Claim(Claim&& other) noexcept : uses_(std::exchange(other.uses_, nullptr)), image_id_(other.image_id_) {}
    Claim& operator=(Claim&&) = delete;
    ~Claim() {
      if (uses_ != nullptr) uses_->release(image_id_);
    }
    explicit operator bool() const { return uses_ != nullptr; }
    void image_is_gone() { uses_ = nullptr; }

   private:
    friend class ImageUses;
    Claim(ImageUses& uses, uint64_t image_id) : uses_(&uses), image_id_(image_id) {}

    ImageUses* uses_ = nullptr;
    uint64_t image_id_ = 0;
  };

  /// Error(ENOENT), with `image` for the sentence ("images/1234@5"), where it is being removed.
  void touch(uint64_t image_id, const std::string& image);
  /// The same, and in use as long as the lease is held, which must not outlive this object.
  Lease hold(uint64_t image_id, const std::string& image);

  bool in_use(uint64_t image_id);
  /// For who is about to delete an image: none where it is in use.
  Claim claim(uint64_t image_id);

 private:
  using Clock = std::chrono::steady_clock;

  struct Use {
    uint32_t holders = 0;
    bool claimed = false;
    Clock::time_point last{};

    bool recent(Clock::time_point now) const { return holders > 0 || now - last < kPatience; }
  };
  Use& touched(uint64_t image_id, const std::string& image);   // with mutex_ held
  bool used(uint64_t image_id) const;                          // with mutex_ held
  void release(uint64_t image_id);

  std::mutex mutex_;                 ///< innermost
  std::map<uint64_t, Use> uses_;
  size_t prune_at_ = 64;
};

}  // namespace ckpt
