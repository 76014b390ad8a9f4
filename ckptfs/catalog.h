// The store as the mount shows it: images by name with their directory trees, kept ready between look-ups, and the
// question who may change one.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "ckptfs/image_readers.h"
#include "ckptfs/image_uses.h"
#include "ckptfs/node.h"
#include "engine/store/store.h"

namespace ckpt {

/// A stored image with its directories, which an image only implies. Immutable, thread-safe.
class ImageTree {
 public:
  struct Item {
    std::string name;                  ///< last component; empty for the image's own directory
    uint32_t parent = 0;
    const ImageEntry* entry = nullptr; ///< null for a directory
    std::vector<uint32_t> children;    ///< sorted by name

    bool is_directory() const { return entry == nullptr; }
  };

  explicit ImageTree(std::shared_ptr<const StoredImage> image);

  const StoredImage& image() const { return *image_; }
  const std::shared_ptr<const StoredImage>& shared_image() const { return image_; }
  uint64_t id() const { return image_->info().id; }
  uid_t owner() const { return image_->info().header.uid; }

  /// Item 0 is the image's own directory.
  const Item& item(uint32_t index) const { return items_[index]; }
  /// The child's number, or 0 where there is none.
  uint32_t find_child(uint32_t directory, std::string_view name) const;
  uint32_t subdirectories(uint32_t directory) const;
  /// Inode number of an item: the same at every mount, and the manifest's is the highest, so that cp -r, which goes
  /// by ascending number, copies it last.
  Ino ino(uint32_t index) const;

 private:
  uint32_t directory_of(std::map<std::string, uint32_t, std::less<>>& directories, std::string_view path);

  std::shared_ptr<const StoredImage> image_;
  std::vector<Item> items_;
  uint32_t manifest_ = 0;
};

/// Thread-safe. Everything that changes which name an image has must go through here or be followed by changed().
class Catalog {
 public:
  explicit Catalog(Store& store) : store_(store) {}

  Store& store() const { return store_; }
  /// Error(ENOENT) where there is no such image.
  std::shared_ptr<const ImageTree> open(const std::string& name);
  std::vector<ImageInfo> images() const { return store_.images(); }
  bool has(const std::string& name) const { return store_.has_image(name); }

  /// For the image's owner or root: Error(EPERM) for others.
  void rename(const std::string& from, const std::string& to, uid_t uid);
  void remove(const std::string& name, uid_t uid);
  /// Error(EACCES) unless `uid` may read the image.
  void check_may_read(const ImageTree& tree, const std::string& name, uid_t uid) const;
  /// Error(EPERM) where the label would push another user's image aside.
  void check_may_take_name(const std::string& name, uid_t uid);
  /// A checkpoint or an import has given names.
  void changed();
  ImageUses& uses() { return uses_; }
  ImageReaders& readers() { return readers_; }
  /// The kernel is told that images/NAME stands for another image from now on, or for none. From workers only: it may
  /// wait for calls on images/ that are under way. What comes through the kernel it knows by itself.
  void forget_name(const std::string& name) const {
    if (forget_name_) forget_name_(name);
  }
  /// Before any request.
  void on_change_of_name(std::function<void(const std::string& name)> forget_name) {
    forget_name_ = std::move(forget_name);
  }

 private:
  static constexpr size_t kMaxKept = 64;

  Store& store_;
  ImageUses uses_;
  ImageReaders readers_{uses_};
  std::function<void(const std::string&)> forget_name_;
  std::mutex mutex_;   ///< guards kept_ and generation_; the store's locks come after it
  std::map<std::string, std::shared_ptr<const ImageTree>> kept_;
  uint64_t generation_ = 0;
};

}  // namespace ckpt
