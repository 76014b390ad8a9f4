#include "ckptfs/images_dir.h"

#include <unistd.h>

#include "engine/image/manifest.h"

namespace ckpt {

struct stat ImagesDir::stat() const {
  // Sticky: an image is renamed and removed by its owner only.
  return make_stat(S_IFDIR | S_ISVTX | 0777, ::geteuid(), ::getegid(), 0,
                   2 + context_.catalog.images().size() + staged_count(), started_);
}

NodePtr ImagesDir::lookup(const Request& request, const std::string& name) {
  if (const auto staged_image = find_current(name)) return staged_image->root();
  Catalog& catalog = context_.catalog;
  return std::make_shared<ImageNode>(context_, catalog.readers().look_up(request, name, catalog.open(name)), 0);
}

std::vector<DirEntry> ImagesDir::list(const Request& request) {
  std::vector<DirEntry> result = staged(request, false);
  for (const ImageInfo& info : context_.catalog.images()) {
    if (request.uid != 0 && request.uid != info.header.uid) continue;
    result.push_back({info.name, (info.id + 1) << kInoBitsPerImage, S_IFDIR, nullptr});
  }
  return result;
}

NodePtr ImagesDir::make_directory(const Request& request, const std::string& name, mode_t mode) {
  if (!valid_image_name(name)) fail(EINVAL, "images/{}: not a name that an image can have", name);
  if (context_.catalog.has(name)) fail(EEXIST, "images/{}: is there already", name);
  return begin(request, name, mode)->root();
}

void ImagesDir::remove_directory(const Request& request, const std::string& name) {
  if (find_current(name)) {
    remove(request, name);
    return;
  }
  const auto tree = context_.catalog.open(name);
  if (!context_.removals.emptied(*tree, 0)) fail(ENOTEMPTY, "images/{}: not empty", name);
  context_.catalog.remove(name, request.uid);
  context_.removals.forget(tree->id());
}

Work ImagesDir::rename(const Request& request, const std::string& name, Node& new_parent,
                       const std::string& new_name) {
  // Into restore/, for one: mv copies, and so resumes it, and removes it here.
  if (&new_parent != this) fail(EXDEV, "images/{}: can only be copied from here", name);
  if (!valid_image_name(new_name)) fail(EINVAL, "images/{}: not a name that an image can have", new_name);
  if (find_current(new_name) || context_.catalog.has(new_name)) {
    fail(EEXIST, "images/{}: is there already", new_name);
  }
  if (rename_staged(name, new_name)) return {};
  context_.catalog.rename(name, new_name, request.uid);
  return {};
}

std::string ImagesDir::complete(StagedImage& image, const Caller& caller, const CancelFlag&) {
  const std::string name = name_of(image);
  const Manifest manifest = Manifest::parse(image.builder().read(kManifestName), image.path());
  // Who could plant an image for somebody else could have him resume what he never ran.
  if (!caller.privileged() && manifest.header.uid != caller.uid) {
    fail(EPERM, "{}: is an image of user {}, not of {}", image.path(), manifest.header.uid, caller.uid);
  }
  if (context_.catalog.has(name)) fail(EEXIST, "images/{}: a checkpoint has taken the name meanwhile", name);
  const auto stored = image.builder().commit(name);
  context_.imports.add(stored->info().id);
  context_.catalog.changed();
  ++counters_.imports;
  return fmt::format("images/{}: imported", name);
}

}  // namespace ckpt
