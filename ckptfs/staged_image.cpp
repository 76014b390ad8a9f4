#include "ckptfs/staged_image.h"

#include <fcntl.h>

#include "ckptfs/staged_node.h"

namespace ckpt {

StagedImage::StagedImage(std::unique_ptr<ImageBuilder> builder, std::string path, const Request& creator,
                         Caller rights, mode_t mode, StagingOwner& owner)
    : builder_(std::move(builder)),
      path_(std::move(path)),
      creator_(creator),
      owner_(owner),
      root_ino_(next_dynamic_ino()),
      rights_(std::move(rights)) {
  Item& root = items_[root_ino_];
  root.mode = S_IFDIR | (mode & 07777);
  root.uid = creator.uid;
  root.gid = creator.gid;
  root.atime = root.mtime = root.ctime = now();
  participants_.insert(rights_.pid);
}

NodePtr StagedImage::root() { return node(root_ino_); }

NodePtr StagedImage::node(Ino ino) { return std::make_shared<StagedNode>(shared_from_this(), ino); }

StagedImage::State StagedImage::state() const {
  const std::lock_guard lock(mutex_);
  return state_;
}

bool StagedImage::empty() const {
  const std::lock_guard lock(mutex_);
  return item(root_ino_).children.empty() && !error_;
}

bool StagedImage::succeeds(const StagedImage& failed) const {
  const std::lock_guard lock(mutex_);
  return predecessor_ == failed.root_ino_ && item(root_ino_).children.empty();
}

void StagedImage::succeed(const StagedImage& failed, std::string sentence) {
  predecessor_ = failed.root_ino_;
  error_ = std::move(sentence);
}

std::optional<std::string> StagedImage::error() const {
  const std::lock_guard lock(mutex_);
  return error_;
}

std::string StagedImage::condition() const {
  const std::lock_guard lock(mutex_);
  return error_ ? *error_ : path_ + ": " + completion_.waiting_for();
}

bool StagedImage::lingers() const {
  const std::lock_guard lock(mutex_);
  return state_ == State::over && std::chrono::steady_clock::now() - last_use_ < kLinger;
}

bool StagedImage::lingers_for(const Request& request) const {
  if (!lingers()) return false;
  const pid_t process = request.process();
  const std::lock_guard lock(mutex_);
  if (!participants_.contains(process)) return false;
  last_use_ = std::chrono::steady_clock::now();
  return true;
}

void StagedImage::took_part(const Request& request) {
  const auto time = std::chrono::steady_clock::now();
  if (last_filler_.is(request) && time - last_filler_.seen < kRightsLast) return;
  const Caller caller = request.caller();
  try {
    rights_.limit_to(caller);
  } catch (const Error& error) {
    fail(error.err(), "{}: is being filled by user {}: {}", path_, rights_.uid, error.sentence());
  }
  last_filler_ = {request, time};
  participants_.insert(caller.pid);  // 0 stands for all who live in another pid namespace
}

Caller StagedImage::rights() const {
  const std::lock_guard lock(mutex_);
  return rights_;
}

StagedImage::Item& StagedImage::item(Ino ino) {
  const auto found = items_.find(ino);
  if (found == items_.end()) fail(ESTALE, "{}: inode {} is gone", path_, ino);
  return found->second;
}

const StagedImage::Item& StagedImage::item(Ino ino) const { return const_cast<StagedImage*>(this)->item(ino); }

std::string StagedImage::path_locked(const Item& start) const {
  std::string path = start.name;
  if (start.parent == 0) fail(ENOENT, "{}: {} has been removed", path_, start.name);
  for (const Item* at = &item(start.parent); at->parent != 0; at = &item(at->parent)) path = at->name + "/" + path;
  return path;
}

void StagedImage::check_filling() const {
  if (state_ == State::finishing) fail(EBUSY, "{}: complete, and being verified and resumed", path_);
  if (state_ == State::over) fail(EROFS, "{}: its resume is over", path_);
}

std::shared_lock<std::shared_mutex> StagedImage::begin_change(const StagedContent& content) const {
  std::shared_lock changing(changing_);
  const std::lock_guard lock(mutex_);
  if (!content.late) check_filling();
  return changing;
}

void StagedImage::check_may_read() const {
  const std::lock_guard lock(mutex_);
  if (state_ == State::over) fail(ESTALE, "{}: its resume is over", path_);
}

struct stat StagedImage::stat(Ino ino) const {
  const std::lock_guard lock(mutex_);
  const Item& it = item(ino);
  nlink_t links = 1;
  if (S_ISDIR(it.mode)) {
    links = 2;
    for (const auto& [name, child] : it.children) links += S_ISDIR(item(child).mode) ? 1 : 0;
  } else if (it.parent == 0) {
    links = 0;
  }
  struct stat result = make_stat(it.mode, it.uid, it.gid, it.size, links, it.mtime);
  result.st_atim = it.atime;
  result.st_ctim = it.ctime;
  return result;
}

void StagedImage::set_attributes(const Request& request, Ino ino, const struct stat& values,
                                 const AttributeChanges& changes) {
  {
    const std::lock_guard lock(mutex_);
    took_part(request);
  }
  if (changes.size) {
    std::shared_ptr<StagedContent> content;
    {
      const std::lock_guard lock(mutex_);
      content = item(ino).content;
    }
    if (!content) fail(EINVAL, "{}: only a file can be truncated", path_);
    const auto changing = begin_change(*content);
    {
      const std::lock_guard lock(content->mutex);
      content->file->truncate(static_cast<uint64_t>(values.st_size));
    }
    content_changed(ino, static_cast<uint64_t>(values.st_size));
  }
  const std::lock_guard lock(mutex_);
  Item& it = item(ino);
  const struct timespec time = now();
  if (changes.mode) it.mode = (it.mode & S_IFMT) | (values.st_mode & 07777);
  if (changes.uid) it.uid = values.st_uid;
  if (changes.gid) it.gid = values.st_gid;
  if (changes.atime) it.atime = changes.atime_now ? time : values.st_atim;
  if (changes.mtime) it.mtime = changes.mtime_now ? time : values.st_mtim;
  it.ctime = time;
  last_use_ = std::chrono::steady_clock::now();
}

std::string StagedImage::read_link(Ino ino) const {
  const std::lock_guard lock(mutex_);
  return item(ino).target;
}

HandlePtr StagedImage::open(const Request& request, Ino ino, int flags) {
  const bool writes = (flags & O_ACCMODE) != O_RDONLY;
  std::shared_ptr<StagedHandle> handle;
  {
    const std::lock_guard lock(mutex_);
    Item& it = item(ino);
    if (!it.content) fail(S_ISDIR(it.mode) ? EISDIR : ENOENT, "{}: {} is not a file", path_, it.name);
    if (writes) {
      took_part(request);
      if (is_late() && !it.content->late) {
        if ((flags & O_TRUNC) == 0) check_filling();
        it.content = new_content(it);
      }
    }
    handle = std::make_shared<StagedHandle>(shared_from_this(), ino, it.content, flags);
  }
  if ((flags & O_TRUNC) != 0 && writes) {
    struct stat values {};
    AttributeChanges cut;
    cut.size = true;
    set_attributes(request, ino, values, cut);
    handle->mark_changed();
  }
  return handle;
}

void StagedImage::unsettle(const std::string& path) {
  completion_.unsettle(path);
  if (path == kManifestName) completion_.drop_manifest();
  if (path == refused_) forget_refusal();
}

void StagedImage::forget_refusal() {
  if (refused_.empty()) return;
  refused_.clear();
  error_.reset();
}

void StagedImage::content_changed(Ino ino, uint64_t size) {
  const std::lock_guard lock(mutex_);
  Item& it = item(ino);
  it.size = size;
  it.settled = false;
  it.mtime = it.ctime = now();
  if (it.parent == 0 || state_ == State::over) return;
  unsettle(path_locked(it));
}

Work StagedImage::content_settled(const Request& request, Ino ino) {
  const std::lock_guard lock(mutex_);
  Item& it = item(ino);
  if (it.parent == 0) return {};
  if (it.content->late) return late_settled(request, it);
  if (state_ != State::filling) return {};
  it.settled = true;
  const std::string path = path_locked(it);
  completion_.settle(path, EntryType::file, it.size);
  return settled(request, path);
}

}  // namespace ckpt
