#include "ckptfs/drop_box.h"

#include <unistd.h>

#include "engine/engine.h"

namespace ckpt {

struct stat DropBox::stat() const {
  // As /tmp: everybody may drop, and only the owner may take away.
  return make_stat(S_IFDIR | S_ISVTX | 0777, ::geteuid(), ::getegid(), 0, 2 + staged_count(), started_);
}

NodePtr DropBox::lookup(const Request& request, const std::string& name) {
  const auto image = find(request, name);
  if (!image) fail(ENOENT, "restore/{}: no such image is being copied in", name);
  return image->root();
}

NodePtr DropBox::make_directory(const Request& request, const std::string& name, mode_t mode) {
  return begin(request, name, mode)->root();
}

void DropBox::remove_directory(const Request& request, const std::string& name) {
  if (!remove(request, name)) fail(ENOENT, "restore/{}: no such directory", name);
}

Work DropBox::rename(const Request&, const std::string& name, Node& new_parent, const std::string& new_name) {
  if (&new_parent != this) fail(EXDEV, "restore/{}: can only be copied from here", name);
  if (!rename_staged(name, new_name)) fail(ENOENT, "restore/{}: no such directory", name);
  return {};
}

std::string DropBox::complete(StagedImage& image, const Caller& caller, const CancelFlag& cancel) {
  ResumeOptions options;
  options.cancel = &cancel;
  try {
    const ResumeResult result = resume(image.builder(), caller, options);
    ++counters_.resumes;
    return result.with_note(fmt::format("{}: resumed as pid {} in {:.1f} ms", image.path(), result.pid,
                                        static_cast<double>(result.total_ns) / 1e6));
  } catch (...) {
    ++counters_.failed_resumes;
    throw;
  }
}

std::shared_ptr<StagedImage> DropBox::successor(StagedImage& image, const Error* error) {
  if (error == nullptr) return nullptr;
  const struct stat attributes = image.root()->attributes();
  auto next = make(image.creator(), image.rights(), name_of(image), attributes.st_mode);
  next->succeed(image, error->sentence());
  return next;
}

}  // namespace ckpt
