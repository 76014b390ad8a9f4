#include "tools/ckpt/copy_image.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "engine/base/error.h"
#include "engine/base/fd.h"
#include "engine/image/manifest.h"
#include "tools/ckpt/progress.h"

namespace ckpt::tool {

namespace {

constexpr size_t kPieceSize = 1 << 20;
constexpr size_t kRangeSize = 64 << 20;  // of one copy_file_range: progress shows in between

/// Copies what is left of `from`, by reference where the kernel can.
template <typename Report>
void copy_content(int from, int to, const std::string& name, const Report& report) {
  bool by_range = true;
  std::string buffer;
  for (;;) {
    ssize_t n = 0;
    if (by_range) {
      n = ::copy_file_range(from, nullptr, to, nullptr, kRangeSize, 0);
      if (n < 0 && (errno == EXDEV || errno == EINVAL || errno == ENOSYS || errno == EOPNOTSUPP)) {
        by_range = false;
        continue;
      }
    } else {
      buffer.resize(kPieceSize);
      n = ::read(from, buffer.data(), buffer.size());
      if (n > 0) write_all(to, std::string_view(buffer).substr(0, static_cast<size_t>(n)), name);
    }
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_errno("{}: copying", name);
    if (n == 0) return;
    report(static_cast<uint64_t>(n));
  }
}

template <typename Report>
void copy_file(const std::string& from, const std::string& to, const Report& report) {
  const UniqueFd source = open_at(AT_FDCWD, from, O_RDONLY | O_NOFOLLOW);
  UniqueFd target = open_at(AT_FDCWD, to, O_WRONLY | O_CREAT | O_EXCL, 0600);
  copy_content(source.get(), target.get(), to, report);
  if (::close(target.release()) != 0) fail_errno("{}", to);
}

/// Makes the directories above a path of the image that are not in `made` yet.
void make_parents(const std::string& root, const std::string& path, std::set<std::string>& made) {
  for (size_t slash = path.find('/'); slash != std::string::npos; slash = path.find('/', slash + 1)) {
    const std::string dir = path.substr(0, slash);
    if (!made.insert(dir).second) continue;
    if (::mkdir((root + "/" + dir).c_str(), 0700) != 0 && errno != EEXIST) fail_errno("{}/{}", root, dir);
  }
}

}  // namespace

void copy_image(const std::string& from, const std::string& to) {
  const auto image = open_directory_image(from);
  auto entries = image->entries();
  std::stable_partition(entries.begin(), entries.end(),
                        [](const ImageEntry& e) { return e.path != kManifestName; });
  uint64_t total = 0, done = 0;
  for (const ImageEntry& entry : entries) total += entry.size;
  ProgressLine progress("copying");
  const auto report = [&](uint64_t bytes) { progress.update(done += bytes, total); };

  if (::mkdir(to.c_str(), 0700) != 0) fail_errno("{}", to);
  std::set<std::string> made;
  for (const ImageEntry& entry : entries) {
    make_parents(to, entry.path, made);
    const std::string target = to + "/" + entry.path;
    if (entry.type == EntryType::symlink) {
      if (::symlink(image->read_link(entry.path).c_str(), target.c_str()) != 0) fail_errno("{}", target);
    } else {
      copy_file(from + "/" + entry.path, target, report);
    }
  }
}

}  // namespace ckpt::tool
