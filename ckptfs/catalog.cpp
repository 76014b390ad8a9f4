#include "ckptfs/catalog.h"

#include <algorithm>

#include "engine/engine.h"

namespace ckpt {

ImageTree::ImageTree(std::shared_ptr<const StoredImage> image) : image_(std::move(image)) {
  const std::vector<ImageEntry>& entries = image_->entries();
  items_.reserve(entries.size() + 16);
  items_.emplace_back();
  std::map<std::string, uint32_t, std::less<>> directories{{"", 0}};
  const ImageEntry* manifest = nullptr;
  const auto add = [&](const ImageEntry& entry) {
    const size_t slash = entry.path.rfind('/');
    const std::string_view path = entry.path;
    const uint32_t parent =
        slash == std::string::npos ? 0 : directory_of(directories, path.substr(0, slash));
    const auto index = static_cast<uint32_t>(items_.size());
    items_.push_back({std::string(path.substr(slash + 1)), parent, &entry, {}});
    items_[parent].children.push_back(index);
    return index;
  };
  for (const ImageEntry& entry : entries) {
    if (entry.path == kManifestName) {
      manifest = &entry;
    } else {
      add(entry);
    }
  }
  if (manifest != nullptr) manifest_ = add(*manifest);
  for (Item& item : items_) {
    std::ranges::sort(item.children, {}, [&](uint32_t child) -> const std::string& { return items_[child].name; });
  }
}

uint32_t ImageTree::directory_of(std::map<std::string, uint32_t, std::less<>>& directories,
                                 std::string_view path) {
  if (const auto found = directories.find(path); found != directories.end()) return found->second;
  const size_t slash = path.rfind('/');
  const uint32_t parent =
      slash == std::string_view::npos ? 0 : directory_of(directories, path.substr(0, slash));
  const auto index = static_cast<uint32_t>(items_.size());
  items_.push_back({std::string(path.substr(slash + 1)), parent, nullptr, {}});
  items_[parent].children.push_back(index);
  directories.emplace(path, index);
  return index;
}

uint32_t ImageTree::find_child(uint32_t directory, std::string_view name) const {
  const std::vector<uint32_t>& children = items_[directory].children;
  const auto found = std::ranges::lower_bound(
      children, name, {}, [&](uint32_t child) -> std::string_view { return items_[child].name; });
  return found != children.end() && items_[*found].name == name ? *found : 0;
}

uint32_t ImageTree::subdirectories(uint32_t directory) const {
  return static_cast<uint32_t>(std::ranges::count_if(
      items_[directory].children, [&](uint32_t child) { return items_[child].is_directory(); }));
}

Ino ImageTree::ino(uint32_t index) const { return ((id() + 1) << kInoBitsPerImage) + index; }

std::shared_ptr<const ImageTree> Catalog::open(const std::string& name) {
  uint64_t generation = 0;
  {
    const std::lock_guard lock(mutex_);
    if (const auto found = kept_.find(name); found != kept_.end()) return found->second;
    generation = generation_;
  }
  auto tree = std::make_shared<const ImageTree>(store_.open_image(name));
  const std::lock_guard lock(mutex_);
  // Kept only where no name has changed since we asked the store.
  if (generation == generation_) {
    if (kept_.size() >= kMaxKept) kept_.clear();
    kept_.emplace(name, tree);
  }
  return tree;
}

void Catalog::rename(const std::string& from, const std::string& to, uid_t uid) {
  const auto tree = open(from);
  if (uid != 0 && uid != tree->owner()) fail(EPERM, "images/{}: only its owner may rename it", from);
  store_.rename_image(from, to, tree->id());
  readers_.forget(from);
  changed();
}

void Catalog::remove(const std::string& name, uid_t uid) {
  const auto tree = open(name);
  if (uid != 0 && uid != tree->owner()) fail(EPERM, "images/{}: only its owner may delete it", name);
  delete_image(store_, name, tree->id());
  readers_.forget(name);
  changed();
}

void Catalog::check_may_read(const ImageTree& tree, const std::string& name, uid_t uid) const {
  if (uid != 0 && uid != tree.owner()) fail(EACCES, "images/{}: belongs to another user", name);
}

void Catalog::check_may_take_name(const std::string& name, uid_t uid) {
  if (uid == 0 || !has(name) || open(name)->owner() == uid) return;
  fail(EPERM, "images/{}: is another user's, who would find his image under another name", name);
}

void Catalog::changed() {
  readers_.prune();
  const std::lock_guard lock(mutex_);
  ++generation_;
  kept_.clear();
}

}  // namespace ckpt
