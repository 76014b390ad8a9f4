// The names of a staged image: looking them up, and making, removing and moving files, directories and links.
#include <functional>

#include "ckptfs/staged_image.h"
#include "ckptfs/staged_node.h"
#include "ckptfs/text_node.h"
#include "engine/base/record.h"

namespace ckpt {

namespace {

constexpr std::string_view kErrorName = "error";

}  // namespace

NodePtr StagedImage::lookup(const Request&, Ino directory, const std::string& name) {
  const std::lock_guard lock(mutex_);
  last_use_ = std::chrono::steady_clock::now();
  const Item& parent = item(directory);
  if (const auto found = parent.children.find(name); found != parent.children.end()) return node(found->second);
  if (directory != root_ino_ || name != kErrorName) return nullptr;
  return std::make_shared<TextNode>(next_dynamic_ino(), 0400, parent.uid, parent.gid,
                                    [self = shared_from_this()] { return self->condition() + "\n"; });
}

std::vector<DirEntry> StagedImage::list(Ino directory) {
  const std::lock_guard lock(mutex_);
  std::vector<DirEntry> result;
  const Item& parent = item(directory);
  for (const auto& [name, child] : parent.children) result.push_back({name, child, item(child).mode & S_IFMT, {}});
  if (directory == root_ino_ && error_) result.push_back({std::string(kErrorName), next_dynamic_ino(), S_IFREG, {}});
  return result;
}

Ino StagedImage::add(Ino directory, const std::string& name, mode_t mode, const Request& request) {
  is_late();
  took_part(request);
  Item& parent = item(directory);
  if (directory != root_ino_ && parent.parent == 0) fail(ENOENT, "{}: {} has been removed", path_, parent.name);
  if (parent.children.contains(name)) fail(EEXIST, "{}: {} is there already", path_, name);
  const Ino ino = next_dynamic_ino();
  Item child;
  child.parent = directory;
  child.name = name;
  child.mode = mode;
  child.uid = request.uid;
  child.gid = request.gid;
  child.atime = child.mtime = child.ctime = now();
  if (!valid_image_path(path_locked(child))) fail(EINVAL, "{}: {} is no name for a file", path_, escape(name));
  parent.children.emplace(name, ino);
  parent.mtime = parent.ctime = child.mtime;
  items_.emplace(ino, std::move(child));
  if (refused_.empty()) error_.reset();  // of the attempt before
  return ino;
}

void StagedImage::detach(Ino ino) {
  Item& it = item(ino);
  if (!S_ISDIR(it.mode)) {
    const std::string path = path_locked(it);
    if (state_ != State::over) {
      if (it.content || S_ISLNK(it.mode)) builder_->remove(path);
      completion_.unsettle(path);
      if (path == kManifestName) completion_.drop_manifest();
    }
    if (path == refused_) refused_.clear();  // the sentence stays until something new comes: rm -r has listed `error`
  }
  item(it.parent).children.erase(it.name);
  it.parent = 0;
  it.content.reset();
}

std::pair<NodePtr, HandlePtr> StagedImage::create(const Request& request, Ino directory, const std::string& name,
                                                  mode_t mode, int flags) {
  const std::lock_guard lock(mutex_);
  const Ino ino = add(directory, name, S_IFREG | (mode & 07777), request);
  Item& it = item(ino);
  try {
    it.content = new_content(it);
  } catch (...) {
    detach(ino);
    throw;
  }
  const auto handle = std::make_shared<StagedHandle>(shared_from_this(), ino, it.content, flags);
  handle->mark_changed();
  return {node(ino), handle};
}

NodePtr StagedImage::make_directory(const Request& request, Ino directory, const std::string& name, mode_t mode) {
  const std::lock_guard lock(mutex_);
  return node(add(directory, name, S_IFDIR | (mode & 07777), request));
}

std::pair<NodePtr, Work> StagedImage::make_link(const Request& request, Ino directory, const std::string& name,
                                                const std::string& target) {
  const std::lock_guard lock(mutex_);
  const Ino ino = add(directory, name, S_IFLNK | 0777, request);
  Item& it = item(ino);
  const std::string path = path_locked(it);
  it.target = target;
  it.size = target.size();
  try {
    if (is_late()) return {node(ino), late_settled(request, it)};
    builder_->put_link(path, target);
  } catch (...) {
    it.mode = S_IFDIR;  // nothing of it is in the builder
    detach(ino);
    throw;
  }
  it.settled = true;
  completion_.settle(path, EntryType::symlink, it.size);
  return {node(ino), settled(request, path)};
}

void StagedImage::remove(Ino directory, const std::string& name, bool is_directory) {
  const std::lock_guard lock(mutex_);
  if (state_ == State::finishing) check_filling();
  Item& parent = item(directory);
  const auto found = parent.children.find(name);
  if (found == parent.children.end()) {
    if (directory != root_ino_ || name != kErrorName || !error_) fail(ENOENT, "{}: no {}", path_, name);
    error_.reset();
    return;
  }
  const Item& it = item(found->second);
  if (S_ISDIR(it.mode) != is_directory) fail(is_directory ? ENOTDIR : EISDIR, "{}: {}", path_, name);
  if (!it.children.empty()) fail(ENOTEMPTY, "{}: {} is not empty", path_, name);
  detach(found->second);
}

void StagedImage::settle_below(Ino ino) {
  const Item& it = item(ino);
  for (const auto& [name, child] : it.children) settle_below(child);
  // What is still being written is settled when it is closed.
  if (S_ISDIR(it.mode) || !it.settled) return;
  completion_.settle(path_locked(it), S_ISLNK(it.mode) ? EntryType::symlink : EntryType::file, it.size);
}

Work StagedImage::rename(const Request& request, Ino directory, const std::string& name, Ino to_directory,
                         const std::string& to) {
  const std::lock_guard lock(mutex_);
  const bool late = is_late();
  took_part(request);
  const auto found = item(directory).children.find(name);
  if (found == item(directory).children.end()) fail(ENOENT, "{}: no {}", path_, name);
  const Ino ino = found->second;
  // The builder knows files only: a directory moves file by file.
  const std::string from_path = path_locked(item(ino));
  const std::string to_path = (to_directory == root_ino_ ? "" : path_locked(item(to_directory)) + "/") + to;
  std::vector<std::pair<Ino, std::string>> moved;
  const std::function<void(Ino)> collect = [&](Ino at) {
    const std::string old_path = path_locked(item(at));
    if (!valid_image_path(to_path + old_path.substr(from_path.size()))) {
      fail(EINVAL, "{}: {} is no name for a file", path_, to);
    }
    for (const auto& [child_name, child] : item(at).children) collect(child);
    if (!S_ISDIR(item(at).mode)) moved.emplace_back(at, old_path);
  };
  collect(ino);
  if (const auto target = item(to_directory).children.find(to); target != item(to_directory).children.end()) {
    if (target->second == ino) return {};
    if (!item(target->second).children.empty()) fail(ENOTEMPTY, "{}: {} is not empty", path_, to);
    detach(target->second);
  }
  item(directory).children.erase(name);
  item(to_directory).children.emplace(to, ino);
  item(ino).parent = to_directory;
  item(ino).name = to;
  if (late) return S_ISDIR(item(ino).mode) ? Work{} : late_settled(request, item(ino));
  for (const auto& [at, old_path] : moved) {
    builder_->rename(old_path, path_locked(item(at)));
    unsettle(old_path);
  }
  settle_below(ino);
  return settled(request, path_locked(item(ino)));
}

}  // namespace ckpt
