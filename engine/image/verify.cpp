#include <fcntl.h>
#include <sys/stat.h>

#include "engine/base/error.h"
#include "engine/base/fd.h"
#include "engine/base/record.h"
#include "engine/image/manifest.h"

namespace ckpt {

namespace {

constexpr uint64_t kMaxManifest = 256 << 20;
constexpr const char* kNewManifest = ".manifest.new";

Manifest read_manifest(const ImageSource& image) {
  const std::string where = image.describe() + '/' + std::string(kManifestName);
  return Manifest::parse(image.read(kManifestName, kMaxManifest), where);
}

void check_entry(const ImageSource& image, const ImageEntry& entry, const ManifestFile& listed, bool contents) {
  const auto refuse = [&](std::string_view what) {
    fail(EINVAL, "{}: {} {}", image.describe(), escape(entry.path), what);
  };
  if (entry.type != listed.type) {
    refuse(listed.type == EntryType::file ? "is a symbolic link, not a file" : "is not a symbolic link");
  }
  if (entry.size != listed.size) {
    refuse(fmt::format("has {} bytes, the manifest says {}: it is damaged, or was changed and not sealed (ckpt seal)",
                       entry.size, listed.size));
  }
  if (contents && image.digest(entry.path) != listed.digest) refuse("was changed and not sealed (ckpt seal)");
}

// Makes the file durable under its name, or leaves the old one.
void replace_manifest(const std::string& dir, const UniqueFd& root, const std::string& text) {
  struct stat old {};
  if (fstatat(root.get(), kManifestName.data(), &old, AT_SYMLINK_NOFOLLOW) != 0) fail_errno("{}/manifest", dir);
  const std::string name = dir + '/' + kNewManifest;
  const UniqueFd fd(openat(root.get(), kNewManifest, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!fd) fail_errno("{}", name);
  try {
    write_all(fd.get(), text, name);
    if (fchmod(fd.get(), old.st_mode & 07777) != 0) fail_errno("{}: chmod", name);
    // An archive that root seals stays its owner's; who may not chown is the owner already.
    if (fchown(fd.get(), old.st_uid, old.st_gid) != 0 && errno != EPERM) fail_errno("{}: chown", name);
    if (fsync(fd.get()) != 0) fail_errno("{}: fsync", name);
    if (renameat(root.get(), kNewManifest, root.get(), kManifestName.data()) != 0) fail_errno("{}: rename", name);
  } catch (...) {
    unlinkat(root.get(), kNewManifest, 0);
    throw;
  }
  if (fsync(root.get()) != 0) fail_errno("{}: fsync", dir);
}

}  // namespace

Manifest verify_image(const ImageSource& image, bool contents) {
  Manifest manifest = read_manifest(image);
  for (const ImageEntry& entry : image.entries()) {
    if (entry.path == kManifestName) continue;
    const auto listed = manifest.files.find(entry.path);
    if (listed == manifest.files.end()) {
      fail(EINVAL, "{}: {} is not in the manifest (ckpt seal adds it)", image.describe(), escape(entry.path));
    }
    check_entry(image, entry, listed->second, contents);
  }
  for (const auto& [path, file] : manifest.files) {
    if (!image.has(path)) fail(EINVAL, "{}: {} is missing", image.describe(), escape(path));
  }
  return manifest;
}

void seal_directory(const std::string& dir) {
  const UniqueFd root = open_at(AT_FDCWD, dir, O_RDONLY | O_DIRECTORY);
  // Left over from a seal that was killed.
  if (unlinkat(root.get(), kNewManifest, 0) != 0 && errno != ENOENT) fail_errno("{}/{}", dir, kNewManifest);
  const std::unique_ptr<ImageSource> image = open_directory_image(dir);
  if (!image->has(kManifestName)) fail(ENOENT, "{}: no manifest: not an image", dir);
  Manifest manifest = read_manifest(*image);
  manifest.files.clear();
  for (const ImageEntry& entry : image->entries()) {
    if (entry.path == kManifestName) continue;
    manifest.files[entry.path] = {entry.type, entry.size, image->digest(entry.path)};
  }
  replace_manifest(dir, root, manifest.to_json());
}

}  // namespace ckpt
