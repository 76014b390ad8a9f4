// The inside of images/NAME: read-only nodes over a stored image.
#pragma once

#include <chrono>
#include <map>
#include <mutex>
#include <set>

#include "ckptfs/catalog.h"
#include "ckptfs/node.h"

namespace ckpt {

/// `rm -r images/NAME` unlinks file after file before it removes the directory. Until then the files are only hidden:
/// the image stays whole, and comes back where rm does not get to its end within a minute (or at the next mount).
/// Thread-safe.
class Removals {
 public:
  bool hidden(const ImageTree& tree, uint32_t index) const;
  void hide(const ImageTree& tree, uint32_t index);
  /// True where everything in a directory of the image is hidden.
  bool emptied(const ImageTree& tree, uint32_t directory) const;
  void forget(uint64_t image_id);

 private:
  static constexpr std::chrono::seconds kPatience{60};

  struct Removal {
    std::set<uint32_t> items;
    std::chrono::steady_clock::time_point last;
  };
  const Removal* current(uint64_t image_id) const;   // with mutex_ held

  mutable std::mutex mutex_;   ///< innermost
  mutable std::map<uint64_t, Removal> removals_;
};

/// Images that were imported a moment ago: cp, tar and rsync still set the times and modes of what they have copied,
/// and must not fail at it. Accepted and ignored for a minute. Thread-safe.
class RecentImports {
 public:
  void add(uint64_t image_id);
  bool contains(uint64_t image_id) const;

 private:
  static constexpr std::chrono::seconds kPatience{60};

  mutable std::mutex mutex_;   ///< innermost
  mutable std::map<uint64_t, std::chrono::steady_clock::time_point> imports_;
};

/// What the nodes of all images share. Outlives them.
struct ImageContext {
  Catalog& catalog;
  Removals removals;
  RecentImports imports;
  /// Called at the first open of an image's file.
  std::function<void()> first_open;
};

/// A file, link or directory of a stored image.
class ImageNode : public Node {
 public:
  ImageNode(ImageContext& context, std::shared_ptr<const ImageTree> tree, uint32_t index)
      : Node(tree->ino(index)), context_(context), tree_(std::move(tree)), index_(index) {}

  const ImageTree& tree() const { return *tree_; }

  struct stat stat() const override;
  double attribute_timeout() const override { return kForever; }
  double entry_timeout() const override;
  double absence_timeout() const override { return kForever; }
  void set_attributes(const Request&, const struct stat&, const AttributeChanges&) override;
  std::string read_link() const override;
  HandlePtr open(const Request&, int flags) override;
  void open_directory(const Request&) override;
  NodePtr lookup(const Request&, const std::string& name) override;
  std::vector<DirEntry> list(const Request&) override;
  std::pair<NodePtr, HandlePtr> create(const Request&, const std::string&, mode_t, int) override { refuse_write(); }
  NodePtr make_directory(const Request&, const std::string&, mode_t) override { refuse_write(); }
  std::pair<NodePtr, Work> make_link(const Request&, const std::string&, const std::string&) override {
    refuse_write();
  }
  void remove_file(const Request&, const std::string& name) override;
  void remove_directory(const Request&, const std::string& name) override;
  Work rename(const Request&, const std::string& name, Node& new_parent, const std::string& new_name) override;

 private:
  [[noreturn]] static void read_only() { fail(EROFS, "an image is immutable"); }
  /// As read_only(). Who would write into an image is not removing it: cp, for one, unlinks a symbolic link before it
  /// makes it anew. What it has hidden shows again.
  [[noreturn]] void refuse_write();
  /// Error(ESTALE), for which the kernel looks the path up again, where the name stands for a newer image now.
  void check_reader(const Request&) const;
  uint32_t child(const std::string& name) const;

  ImageContext& context_;
  const std::shared_ptr<const ImageTree> tree_;
  const uint32_t index_;
};

}  // namespace ckpt
