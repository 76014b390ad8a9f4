#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <algorithm>

#include "engine/base/error.h"
#include "engine/base/fd.h"
#include "engine/base/record.h"
#include "engine/image/image.h"

namespace ckpt {

namespace {

struct CloseDir {
  void operator()(DIR* d) const { closedir(d); }
};

class DirectoryImage : public ImageSource {
 public:
  explicit DirectoryImage(const std::string& dir)
      : dir_(dir), root_(open_at(AT_FDCWD, dir, O_PATH | O_DIRECTORY)) {
    scan("");
    std::sort(entries_.begin(), entries_.end(),
              [](const ImageEntry& a, const ImageEntry& b) { return a.path < b.path; });
  }

  std::string describe() const override { return dir_; }
  const std::vector<ImageEntry>& entries() const override { return entries_; }
  std::string read_link(std::string_view path) const override;
  void visit(std::string_view path, uint64_t offset, uint64_t length, const Visitor& v) const override;
  Digest digest(std::string_view path) const override;

 private:
  // An archive is hostile: a component may be a link to anywhere, or become one while we walk.
  UniqueFd open_beneath(const std::string& path, uint64_t flags) const {
    open_how how{};
    how.flags = flags | O_CLOEXEC | O_NOFOLLOW;
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
    UniqueFd fd(static_cast<int>(syscall(SYS_openat2, root_.get(), path.c_str(), &how, sizeof how)));
    if (!fd) fail_errno("{}/{}", dir_, path);
    return fd;
  }
  UniqueFd open_file(const std::string& path) const {
    // Without O_NONBLOCK a FIFO put in the file's place would block us.
    UniqueFd fd = open_beneath(path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
    struct stat st {};
    if (fstat(fd.get(), &st) != 0) fail_errno("{}/{}: fstat", dir_, path);
    if (!S_ISREG(st.st_mode)) fail(EINVAL, "{}/{} is not a regular file", dir_, path);
    return fd;
  }
  void scan(const std::string& dir);
  bool add(int dirfd, const char* name, const std::string& path);

  std::string dir_;
  UniqueFd root_;
  std::vector<ImageEntry> entries_;
};

void DirectoryImage::scan(const std::string& dir) {
  std::vector<std::string> below;
  {
    UniqueFd fd = open_beneath(dir.empty() ? "." : dir, O_RDONLY | O_DIRECTORY);
    const std::unique_ptr<DIR, CloseDir> stream(fdopendir(fd.get()));
    if (!stream) fail_errno("{}/{}: fdopendir", dir_, dir);
    fd.release();
    for (;;) {
      errno = 0;
      const dirent* d = readdir(stream.get());
      if (d == nullptr && errno != 0) fail_errno("{}/{}: readdir", dir_, dir);
      if (d == nullptr) break;
      const std::string_view name = d->d_name;
      if (name == "." || name == "..") continue;
      std::string path = dir.empty() ? std::string(name) : dir + '/' + std::string(name);
      if (add(dirfd(stream.get()), d->d_name, path)) below.push_back(std::move(path));
    }
  }
  // No descriptor is held open on the way down, and a path's length bounds the depth to some 2000 levels.
  for (const std::string& sub : below) scan(sub);
}

// Lists one entry; true where it is a directory.
bool DirectoryImage::add(int dirfd, const char* name, const std::string& path) {
  if (!valid_image_path(path)) fail(EINVAL, "{}/{}: is not a path that an image may have", dir_, escape(path));
  struct stat st {};
  if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) != 0) fail_errno("{}/{}", dir_, path);
  if (S_ISDIR(st.st_mode)) return true;
  if (S_ISREG(st.st_mode)) {
    entries_.push_back({path, EntryType::file, static_cast<uint64_t>(st.st_size)});
  } else if (S_ISLNK(st.st_mode)) {
    entries_.push_back({path, EntryType::symlink, ckpt::read_link(dirfd, name).size()});
  } else {
    fail(EINVAL, "{}/{} is a special file, which no image has", dir_, path);
  }
  return false;
}

std::string DirectoryImage::read_link(std::string_view path) const {
  const ImageEntry* entry = find(path);
  if (entry == nullptr) fail(ENOENT, "{}: no link {}", dir_, path);
  if (entry->type != EntryType::symlink) fail(EINVAL, "{}/{} is not a symbolic link", dir_, path);
  const UniqueFd fd = open_beneath(entry->path, O_PATH);
  return ckpt::read_link(fd.get(), "");
}

void DirectoryImage::visit(std::string_view path, uint64_t offset, uint64_t length, const Visitor& v) const {
  const ImageEntry* entry = find(path);
  if (entry == nullptr || entry->type != EntryType::file) fail(ENOENT, "{}: no file {}", dir_, path);
  if (offset > entry->size || length > entry->size - offset) {
    fail(EINVAL, "{}/{}: bytes {} to {} are beyond its end", dir_, path, offset, offset + length);
  }
  if (length == 0) return;
  const UniqueFd fd = open_file(entry->path);
  std::vector<std::byte> buffer(std::min<uint64_t>(length, kBlockSize));
  while (length > 0) {
    const auto piece = std::span(buffer).first(std::min<uint64_t>(length, buffer.size()));
    pread_all(fd.get(), piece, offset, dir_ + '/' + entry->path);
    v(offset, piece);
    offset += piece.size();
    length -= piece.size();
  }
}

Digest DirectoryImage::digest(std::string_view path) const {
  const ImageEntry* entry = find(path);
  if (entry == nullptr) fail(ENOENT, "{}: no file {}", dir_, path);
  if (entry->type == EntryType::symlink) {
    const std::string target = read_link(path);
    return digest_file(std::as_bytes(std::span(target)));
  }
  std::vector<Digest> blocks;
  // visit() hands out whole blocks, the last one short, which is what a file's digest is made of.
  visit(path, 0, entry->size,
        [&](uint64_t, std::span<const std::byte> block) { blocks.push_back(digest_file(block)); });
  return combine_digests(blocks);
}

}  // namespace

std::unique_ptr<ImageSource> open_directory_image(const std::string& dir) {
  return std::make_unique<DirectoryImage>(dir);
}

}  // namespace ckpt
