#include "ckptfs/image_nodes.h"

#include <fcntl.h>

#include <algorithm>

#include "engine/image/resume_script.h"

namespace ckpt {

namespace {

class ImageHandle : public Handle {
 public:
  ImageHandle(std::shared_ptr<const ImageTree> tree, const ImageEntry& entry, ImageUses::Lease lease)
      : tree_(std::move(tree)), entry_(entry), lease_(std::move(lease)) {}

  bool keep_cache() const override { return true; }
  uint64_t size() const override { return entry_.size; }
  std::optional<Source> source() const override { return Source{&tree_->image(), entry_.path}; }

  void read(const Request&, uint64_t offset, size_t size, const Answer& answer) override {
    if (offset >= entry_.size) return answer({});
    const uint64_t length = std::min<uint64_t>(size, entry_.size - offset);
    std::vector<std::byte> buffer;
    bool answered = false;
    tree_->image().visit(entry_.path, offset, length, [&](uint64_t at, std::span<const std::byte> piece) {
      if (piece.size() == length) {
        // All of it in one piece of the store's memory: sent from there, without a copy.
        answered = true;
        answer(piece);
        return;
      }
      if (buffer.empty()) buffer.resize(length);
      std::copy(piece.begin(), piece.end(), buffer.begin() + static_cast<ptrdiff_t>(at - offset));
    });
    if (!answered) answer(buffer);
  }

 private:
  const std::shared_ptr<const ImageTree> tree_;
  const ImageEntry& entry_;   ///< in *tree_
  const ImageUses::Lease lease_;
};

}  // namespace

const Removals::Removal* Removals::current(uint64_t image_id) const {
  const auto found = removals_.find(image_id);
  if (found == removals_.end()) return nullptr;
  if (std::chrono::steady_clock::now() - found->second.last > kPatience) {
    removals_.erase(found);
    return nullptr;
  }
  return &found->second;
}

bool Removals::hidden(const ImageTree& tree, uint32_t index) const {
  const std::lock_guard lock(mutex_);
  const Removal* removal = current(tree.id());
  return removal != nullptr && removal->items.contains(index);
}

void Removals::hide(const ImageTree& tree, uint32_t index) {
  const std::lock_guard lock(mutex_);
  current(tree.id());
  Removal& removal = removals_[tree.id()];
  removal.items.insert(index);
  removal.last = std::chrono::steady_clock::now();
}

bool Removals::emptied(const ImageTree& tree, uint32_t directory) const {
  const std::lock_guard lock(mutex_);
  const Removal* removal = current(tree.id());
  const auto& children = tree.item(directory).children;
  return children.empty() || (removal != nullptr && std::ranges::all_of(children, [&](uint32_t child) {
                                return removal->items.contains(child);
                              }));
}

void Removals::forget(uint64_t image_id) {
  const std::lock_guard lock(mutex_);
  removals_.erase(image_id);
}

void RecentImports::add(uint64_t image_id) {
  const std::lock_guard lock(mutex_);
  imports_[image_id] = std::chrono::steady_clock::now();
}

bool RecentImports::contains(uint64_t image_id) const {
  const std::lock_guard lock(mutex_);
  const auto old = std::chrono::steady_clock::now() - kPatience;
  std::erase_if(imports_, [&](const auto& import) { return import.second < old; });
  return imports_.contains(image_id);
}

struct stat ImageNode::stat() const {
  const ImageTree::Item& item = tree_->item(index_);
  const ManifestHeader& header = tree_->image().info().header;
  const struct timespec time = to_timespec(header.time_ns);
  if (item.is_directory()) {
    return make_stat(S_IFDIR | 0700, header.uid, header.gid, 0, 2 + tree_->subdirectories(index_), time);
  }
  const mode_t mode = item.entry->type == EntryType::symlink ? S_IFLNK | 0777 : S_IFREG | permissions_of(item.entry->path);
  return make_stat(mode, header.uid, header.gid, item.entry->size, 1, time);
}

void ImageNode::set_attributes(const Request&, const struct stat&, const AttributeChanges& changes) {
  if (changes.size || !context_.imports.contains(tree_->id())) read_only();
}

std::string ImageNode::read_link() const {
  const ImageTree::Item& item = tree_->item(index_);
  if (item.is_directory() || item.entry->type != EntryType::symlink) fail(EINVAL, "{}: not a link", item.name);
  return tree_->image().read_link(item.entry->path);
}

// The image's own name may change hands at any checkpoint, of which the kernel is told; the names within never do.
double ImageNode::entry_timeout() const {
  if (index_ != 0) return kForever;
  return context_.catalog.readers().active() ? 0 : 1;
}

void ImageNode::check_reader(const Request& request) const {
  if (context_.catalog.readers().opened(request, *tree_, index_)) return;
  fail(ESTALE, "{}: is not the newest of its series", tree_->image().describe());
}

void ImageNode::open_directory(const Request& request) {
  check_reader(request);
  context_.catalog.uses().touch(tree_->id(), tree_->image().describe());
}

HandlePtr ImageNode::open(const Request& request, int flags) {
  const ImageTree::Item& item = tree_->item(index_);
  if (item.is_directory()) fail(EISDIR, "{}: a directory", item.name);
  if ((flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC) != 0) refuse_write();
  if (context_.first_open) context_.first_open();
  ImageUses::Lease lease;
  if (item.entry->path != kManifestName) {
    check_reader(request);
    lease = context_.catalog.uses().hold(tree_->id(), tree_->image().describe());
  }
  return std::make_shared<ImageHandle>(tree_, *item.entry, std::move(lease));
}

void ImageNode::refuse_write() {
  context_.removals.forget(tree_->id());
  read_only();
}

uint32_t ImageNode::child(const std::string& name) const {
  if (!tree_->item(index_).is_directory()) fail(ENOTDIR, "{}: not in a directory", name);
  const uint32_t index = tree_->find_child(index_, name);
  if (index == 0 || context_.removals.hidden(*tree_, index)) fail(ENOENT, "no {}", name);
  return index;
}

NodePtr ImageNode::lookup(const Request&, const std::string& name) {
  return std::make_shared<ImageNode>(context_, tree_, child(name));
}

std::vector<DirEntry> ImageNode::list(const Request&) {
  std::vector<DirEntry> result;
  for (const uint32_t index : tree_->item(index_).children) {
    if (context_.removals.hidden(*tree_, index)) continue;
    const ImageTree::Item& item = tree_->item(index);
    mode_t type = S_IFDIR;
    if (!item.is_directory()) type = item.entry->type == EntryType::symlink ? S_IFLNK : S_IFREG;
    result.push_back({item.name, tree_->ino(index), type, std::make_shared<ImageNode>(context_, tree_, index)});
  }
  return result;
}

Work ImageNode::rename(const Request&, const std::string& name, Node& new_parent, const std::string&) {
  // Into restore/: mv has made the directory there and asks for each file anew; for this error it copies.
  if (dynamic_cast<ImageNode*>(&new_parent) == nullptr) fail(EXDEV, "{}: can only be copied from here", name);
  read_only();
}

void ImageNode::remove_file(const Request&, const std::string& name) {
  const uint32_t index = child(name);
  if (tree_->item(index).is_directory()) fail(EISDIR, "{}: a directory", name);
  context_.removals.hide(*tree_, index);
}

void ImageNode::remove_directory(const Request&, const std::string& name) {
  const uint32_t index = child(name);
  if (!tree_->item(index).is_directory()) fail(ENOTDIR, "{}: not a directory", name);
  if (!context_.removals.emptied(*tree_, index)) fail(ENOTEMPTY, "{}: not empty", name);
  context_.removals.hide(*tree_, index);
}

}  // namespace ckpt
