#include "ckptfs/completion.h"

#include <fmt/format.h>

namespace ckpt {

bool Completion::fits(const std::string& path, const ManifestFile& expected) const {
  const auto found = settled_.find(path);
  if (found == settled_.end() || found->second.type != expected.type) return false;
  return found->second.size == expected.size;
}

const ManifestFile* Completion::listed(const std::string& path) const {
  if (!manifest_) return nullptr;
  if (path == kManifestName) return &itself_;
  const auto found = manifest_->files.find(path);
  return found == manifest_->files.end() ? nullptr : &found->second;
}

void Completion::set_manifest(Manifest manifest, const ManifestFile& itself) {
  manifest_ = std::move(manifest);
  itself_ = itself;
  waiting_.clear();
  for (const auto& [path, expected] : manifest_->files) {
    if (!fits(path, expected)) waiting_.insert(path);
  }
}

void Completion::settle(const std::string& path, EntryType type, uint64_t size) {
  settled_[path] = {type, size};
  if (!manifest_) return;
  const auto expected = manifest_->files.find(path);
  if (expected == manifest_->files.end()) return;
  if (fits(path, expected->second)) {
    waiting_.erase(path);
  } else {
    waiting_.insert(path);
  }
}

void Completion::unsettle(const std::string& path) {
  settled_.erase(path);
  if (manifest_ && manifest_->files.contains(path)) waiting_.insert(path);
}

std::optional<std::string> Completion::wrong_file() const {
  if (!manifest_) return std::nullopt;
  std::optional<std::string> short_file;
  bool all_there = true;
  for (const std::string& path : waiting_) {
    const auto found = settled_.find(path);
    const ManifestFile& expected = manifest_->files.find(path)->second;
    // A file where a link should be is tar's place-holder: the link is made at the end.
    if (found == settled_.end() || found->second.type != expected.type) {
      all_there = false;
      continue;
    }
    const std::string sizes =
        fmt::format("{} has {} bytes, the manifest says {}", path, found->second.size, expected.size);
    if (found->second.size > expected.size) return sizes;
    if (!short_file) short_file = sizes;
  }
  return all_there ? short_file : std::nullopt;
}

std::string Completion::waiting_for() const {
  if (!manifest_) return "incomplete, its manifest has not come yet";
  if (waiting_.empty()) return "complete";
  return fmt::format("incomplete, {} of {} files have not come yet, {} among them", waiting_.size(),
                     manifest_->files.size(), *waiting_.begin());
}

}  // namespace ckpt
