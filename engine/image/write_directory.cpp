#include "engine/image/write_directory.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <memory>

#include "engine/base/error.h"
#include "engine/base/fd.h"
#include "engine/image/manifest.h"
#include "engine/image/resume_script.h"

namespace ckpt {
namespace {

constexpr int kDirectory = O_RDONLY | O_DIRECTORY | O_NOFOLLOW;

bool is_empty(int dir, const std::string& name) {
  UniqueFd again = open_at(dir, ".", kDirectory);
  const std::unique_ptr<DIR, int (*)(DIR*)> entries(::fdopendir(again.get()), ::closedir);
  if (!entries) fail_errno("{}", name);
  again.release();
  while (const dirent* entry = ::readdir(entries.get())) {
    const std::string_view found = entry->d_name;
    if (found != "." && found != "..") return false;
  }
  return true;
}

class Writer {
 public:
  Writer(const ImageSource& image, int dir, const std::string& name) : image_(image), dir_(dir), name_(name) {}

  void write(const ImageEntry& entry) {
    const size_t slash = entry.path.rfind('/');
    if (slash != std::string::npos) enter(entry.path.substr(0, slash));
    const int parent = slash == std::string::npos ? dir_ : parent_.get();
    const std::string base = slash == std::string::npos ? entry.path : entry.path.substr(slash + 1);
    if (entry.type == EntryType::symlink) {
      if (::symlinkat(image_.read_link(entry.path).c_str(), parent, base.c_str()) != 0) fail_errno("{}/{}", name_, entry.path);
      made_.push_back({entry.path, 0});
    } else {
      write_file(entry, open_new(entry, parent, base));
    }
  }

  void remove_all() noexcept {
    for (auto it = made_.rbegin(); it != made_.rend(); ++it) ::unlinkat(dir_, it->path.c_str(), it->flags);
  }

 private:
  struct Made {
    std::string path;
    int flags;   // of unlinkat(2)
  };

  /// Opens a directory of the image, and makes what is not there yet.
  void enter(const std::string& path) {
    if (path == entered_) return;
    parent_ = open_at(dir_, ".", kDirectory);
    for (size_t begin = 0; begin < path.size();) {
      const size_t end = std::min(path.find('/', begin), path.size());
      const std::string component = path.substr(begin, end - begin);
      if (::mkdirat(parent_.get(), component.c_str(), 0700) == 0) {
        made_.push_back({path.substr(0, end), AT_REMOVEDIR});
      } else if (errno != EEXIST) {
        fail_errno("{}/{}", name_, path.substr(0, end));
      }
      parent_ = open_at(parent_.get(), component, kDirectory);
      begin = end + 1;
    }
    entered_ = path;
  }

  UniqueFd open_new(const ImageEntry& entry, int parent, const std::string& base) {
    UniqueFd file(::openat(parent, base.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                           permissions_of(entry.path)));
    if (!file) fail_errno("{}/{}", name_, entry.path);
    made_.push_back({entry.path, 0});
    return file;
  }

  void write_file(const ImageEntry& entry, const UniqueFd& file) const {
    const std::string where = name_ + "/" + entry.path;
    image_.visit(entry.path, 0, entry.size, [&](uint64_t at, std::span<const std::byte> piece) {
      if (!is_zero(piece)) pwrite_all(file.get(), piece, at, where);
    });
    if (::ftruncate(file.get(), static_cast<off_t>(entry.size)) != 0) fail_errno("{}", where);
  }

  const ImageSource& image_;
  const int dir_;
  const std::string& name_;
  std::vector<Made> made_;
  std::string entered_;
  UniqueFd parent_;
};

}  // namespace

void write_directory(const ImageSource& image, int directory, const std::string& name) {
  const UniqueFd opened = open_at(directory, ".", kDirectory);   // it may have been opened with O_PATH
  const int dir = opened.get();
  if (!is_empty(dir, name)) fail(EEXIST, "{}: is not empty", name);
  std::vector<ImageEntry> entries = image.entries();
  const auto last = std::stable_partition(entries.begin(), entries.end(),
                                          [](const ImageEntry& entry) { return entry.path != kManifestName; });
  Writer writer(image, dir, name);
  try {
    for (auto it = entries.begin(); it != last; ++it) writer.write(*it);
    if (::syncfs(dir) != 0) fail_errno("{}: syncfs", name);
    for (auto it = last; it != entries.end(); ++it) writer.write(*it);
    if (::syncfs(dir) != 0) fail_errno("{}: syncfs", name);
  } catch (...) {
    writer.remove_all();
    throw;
  }
}

}  // namespace ckpt
