#include "ckptfs/staging_area.h"

#include <unistd.h>

#include <algorithm>

namespace ckpt {

StagingArea::StagingArea(Ino ino, std::string where, Store& store, CommandLog& log)
    : Node(ino), where_(std::move(where)), store_(store), log_(log) {}

std::shared_ptr<StagedImage> StagingArea::make(const Request& request, Caller rights, const std::string& name,
                                               mode_t mode) {
  std::string path = where_ + "/" + name;
  auto builder = store_.begin_image(path);
  return std::make_shared<StagedImage>(std::move(builder), std::move(path), request, std::move(rights), mode, *this);
}

std::shared_ptr<StagedImage> StagingArea::find_current(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  const auto found = current_.find(name);
  return found == current_.end() ? nullptr : found->second;
}

std::shared_ptr<StagedImage> StagingArea::find(const Request& request, const std::string& name) {
  std::shared_ptr<StagedImage> ended;
  std::deque<Ended> gone;  // destroyed without the lock
  {
    const std::lock_guard lock(mutex_);
    while (!ended_.empty() && !ended_.front().image->lingers()) {
      gone.push_back(std::move(ended_.front()));
      ended_.pop_front();
    }
    const auto found = std::ranges::find(ended_.rbegin(), ended_.rend(), name, &Ended::name);
    if (found != ended_.rend()) ended = found->image;
  }
  if (ended && ended->lingers_for(request)) return ended;
  return find_current(name);
}

std::shared_ptr<StagedImage> StagingArea::begin(const Request& request, const std::string& name, mode_t mode) {
  auto image = make(request, request.caller(), name, mode);
  const std::lock_guard lock(mutex_);
  if (!current_.emplace(name, image).second) fail(EEXIST, "{}/{}: is there already", where_, name);
  return image;
}

bool StagingArea::remove(const Request& request, const std::string& name) {
  const auto image = find(request, name);
  if (!image) return false;
  if (!image->empty()) fail(ENOTEMPTY, "{}/{}: not empty", where_, name);
  const std::lock_guard lock(mutex_);
  std::erase_if(ended_, [&](const Ended& ended) { return ended.image == image; });
  // Who filled an image that failed means its successor as well, which stands under the name with the reason only.
  if (const auto found = current_.find(name);
      found != current_.end() && (found->second == image || found->second->succeeds(*image))) {
    current_.erase(found);
  }
  return true;
}

bool StagingArea::rename_staged(const std::string& name, const std::string& to) {
  const std::lock_guard lock(mutex_);
  const auto found = current_.find(name);
  if (found == current_.end()) return false;
  if (current_.contains(to)) fail(EEXIST, "{}/{}: is there already", where_, to);
  auto moved = current_.extract(found);
  moved.key() = to;
  current_.insert(std::move(moved));
  return true;
}

std::vector<DirEntry> StagingArea::staged(const Request& request, bool of_all_users) const {
  const std::lock_guard lock(mutex_);
  std::vector<DirEntry> result;
  for (const auto& [name, image] : current_) {
    if (!of_all_users && request.uid != 0 && request.uid != image->creator().uid) continue;
    result.push_back({name, image->root()->ino(), S_IFDIR, nullptr});
  }
  return result;
}

size_t StagingArea::staged_count() const {
  const std::lock_guard lock(mutex_);
  return current_.size();
}

std::string StagingArea::name_of(const StagedImage& image) const {
  const std::lock_guard lock(mutex_);
  const auto found = std::ranges::find_if(current_, [&](const auto& c) { return c.second.get() == &image; });
  if (found == current_.end()) fail(ENOENT, "{}: has been removed", image.path());
  return found->first;
}

void StagingArea::refused(StagedImage&, const Request& request, const Error& error) {
  log_.add(LogKey::of(request), error.sentence());
}

void StagingArea::over(StagedImage& image, const Request& request, const std::string& line, const Error* error) {
  log_.add(LogKey::of(request), error == nullptr ? line : error->sentence());
  std::shared_ptr<StagedImage> next;
  try {
    next = successor(image, error);
  } catch (const Error&) {
    // The store cannot begin another one (it is full): then the name goes, and the reason stands in ctl only.
  }
  std::shared_ptr<StagedImage> gone;
  std::string name;
  {
    const std::lock_guard lock(mutex_);
    const auto found = std::ranges::find_if(current_, [&](const auto& c) { return c.second.get() == &image; });
    if (found == current_.end()) return;
    name = found->first;
    ended_.push_back({name, found->second});
    if (ended_.size() > kMaxEnded) {
      gone = std::move(ended_.front().image);
      ended_.pop_front();
    }
    if (next) {
      found->second = next;
    } else {
      current_.erase(found);
    }
  }
  if (forget_name_) forget_name_(ino(), name);
}

}  // namespace ckpt
