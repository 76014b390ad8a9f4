// Which image a process reads under a name that a series gives from one to the next.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>

#include "ckptfs/image_uses.h"
#include "ckptfs/request.h"

namespace ckpt {

class ImageTree;

/// A copy of an image opens its directories and files one after the other, by name, and would be a mixture where the name
/// moves on in between. So, while a series runs, a process reads one image under a name: the one in which it has first
/// opened a file or directory. Until it opens one of them a second time, when it gets the newest; until nobody uses the image
/// any more (ImageUses); or until the name is given away by a command that somebody waits for. The manifest does not count.
/// A process of another pid namespace is not known, and gets the newest. Thread-safe.
class ImageReaders {
 public:
  using Tree = std::shared_ptr<const ImageTree>;
  using Lease = std::shared_ptr<const void>;

  explicit ImageReaders(ImageUses& uses) : uses_(uses) {}

  /// As long as it lives, which must not be longer than this object, names may move on.
  Lease series_runs();
  /// Whether a name may stand for different images at once; the kernel must then ask at every look-up.
  bool active();

  /// What `name`, which is `newest`'s, stands for to who asks.
  Tree look_up(const Request& request, const std::string& name, const Tree& newest);
  /// For an item of an image that is opened. False where it is to be looked up again first, since the name has moved on.
  bool opened(const Request& request, const ImageTree& tree, uint32_t index);
  /// Everybody gets the newest.
  void forget(const std::string& name);
  /// Lets go of images that nobody uses any more.
  void prune();

 private:
  using Clock = std::chrono::steady_clock;

  struct Reader {
    Tree tree;
    uint64_t newest = 0;               // the image that had the name at the last look-up
    std::set<uint32_t> opened;
    Clock::time_point last;
  };
  void drop_idle();                    // with mutex_ held

  ImageUses& uses_;
  std::mutex mutex_;                   ///< guards what follows; that of ImageUses comes after it
  size_t series_ = 0;
  std::map<std::pair<pid_t, std::string>, Reader> readers_;
};

}  // namespace ckpt
