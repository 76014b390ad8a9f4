// The end of a staged image: when it is complete, what becomes of it then, and what is said to those who bring more.
#include <fmt/format.h>

#include "ckptfs/staged_image.h"

namespace ckpt {

void StagedImage::read_manifest() {
  constexpr uint64_t kLargest = 64 << 20;
  const Item& root = item(root_ino_);
  const auto found = root.children.find(std::string(kManifestName));
  if (found == root.children.end() || !item(found->second).content) return;
  const Item& manifest = item(found->second);
  if (manifest.size == 0) return;  // the shell closes a redirection before anything is written
  if (manifest.size > kLargest) fail(EFBIG, "{}/manifest: {} bytes are too many", path_, manifest.size);
  std::string text(manifest.size, '\0');
  {
    const std::lock_guard lock(manifest.content->mutex);
    manifest.content->file->read(0, std::as_writable_bytes(std::span(text)));
  }
  completion_.set_manifest(Manifest::parse(text, path_ + "/manifest"),
                           {EntryType::file, text.size(), digest_file(std::as_bytes(std::span(text)))});
}

Work StagedImage::settled(const Request& request, const std::string& path) {
  try {
    if (path == kManifestName) read_manifest();
    if (completion_.complete()) return begin_finish(request);
    if (const auto wrong = completion_.wrong_file()) fail(EINVAL, "{}: {}", path_, *wrong);
    // Without a manifest nothing is known about the other files: what was said about the manifest stands.
    if (completion_.has_manifest()) forget_refusal();
    return {};
  } catch (const Error& error) {
    // The close carries the errno; the sentence is recorded where this lock is not held.
    error_ = error.sentence();
    refused_ = path;
    return refusal(request, error);
  }
}

Work StagedImage::late_settled(const Request& request, const Item& it) {
  try {
    if (!it.content || it.content->late) check_late(it);
    return {};
  } catch (const Error& error) {
    return refusal(request, error);
  }
}

Work StagedImage::refusal(const Request& request, const Error& error) {
  return {[this, self = shared_from_this(), request, error](const CancelFlag&) {
            owner_.refused(*this, request, error);
            throw error;
          },
          {}};
}

Work StagedImage::begin_finish(const Request& request) {
  state_ = State::finishing;
  return {[this, self = shared_from_this(), request](const CancelFlag& cancel) { finish(request, cancel); }, {}};
}

void StagedImage::finish(const Request& request, const CancelFlag& cancel) {
  const auto end = [&](const std::string& line, const Error* error) {
    {
      const std::lock_guard lock(mutex_);
      state_ = State::over;
      last_use_ = std::chrono::steady_clock::now();
      succeeded_ = error == nullptr;
      if (error != nullptr) error_ = error->sentence();
    }
    owner_.over(*this, request, line, error);
  };
  try {
    // Writes that were under way when the state changed; later ones are refused.
    { const std::unique_lock drained(changing_); }
    verify_image(*builder_, true);
    end(owner_.complete(*this, rights(), cancel), nullptr);
  } catch (const Error& error) {
    end({}, &error);
    throw;
  } catch (const std::exception& error) {
    const Error as_error(EIO, fmt::format("{}: {}", path_, error.what()));
    end({}, &as_error);
    throw as_error;
  }
}

bool StagedImage::is_late() const {
  const bool late = state_ == State::over && succeeded_;
  if (!late) check_filling();
  return late;
}

std::shared_ptr<StagedContent> StagedImage::new_content(const Item& it) {
  auto content = std::make_shared<StagedContent>();
  content->late = is_late();
  content->file = content->late ? std::make_shared<LateFile>() : builder_->open(path_locked(it));
  return content;
}

void StagedImage::check_late(const Item& it) const {
  const std::string path = path_locked(it);
  const ManifestFile* resumed = completion_.listed(path);
  if (resumed == nullptr) return;
  // tar puts an empty file in the place of a link, and makes the link at the end.
  if (resumed->type == EntryType::symlink && !S_ISLNK(it.mode)) return;
  ManifestFile brought{S_ISLNK(it.mode) ? EntryType::symlink : EntryType::file, it.size, {}};
  if (it.content) {
    const std::lock_guard lock(it.content->mutex);
    brought.digest = static_cast<const LateFile&>(*it.content->file).digest();
  } else {
    brought.digest = digest_file(std::as_bytes(std::span(it.target)));
  }
  if (brought.type == resumed->type && brought.size == resumed->size && brought.digest == resumed->digest) return;
  fail(ESTALE, "{}: {} came after the resume, and is not what was resumed", path_, path);
}

}  // namespace ckpt
