#include "engine/process/mounts.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <mutex>

#include "engine/base/error.h"
#include "engine/base/fd.h"
#include "engine/base/record.h"

namespace ckpt {
namespace {

/// Whether `path` is `directory`, or below it.
bool leads_through(std::string_view path, std::string_view directory) {
  if (directory == "/") return true;
  return path.starts_with(directory) && (path.size() == directory.size() || path[directory.size()] == '/');
}

}  // namespace

std::shared_ptr<const MountTable> MountTable::now() {
  static std::mutex mutex;
  static UniqueFd file;
  static pid_t of = 0;
  static std::shared_ptr<const MountTable> table;
  const std::lock_guard lock(mutex);
  if (of != ::getpid()) {  // or we are a child of who read it
    file = open_at(AT_FDCWD, "/proc/self/mountinfo", O_RDONLY);
    of = ::getpid();
    table.reset();
  }
  pollfd change = {file.get(), POLLPRI, 0};
  if (::poll(&change, 1, 0) == 0 && table) return table;
  if (::lseek(file.get(), 0, SEEK_SET) != 0) fail_errno("/proc/self/mountinfo: lseek");
  table = std::make_shared<const MountTable>(read_all(file.get(), "/proc/self/mountinfo"));
  return table;
}

MountTable::MountTable(std::string_view text) {
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    // ID PARENT MAJOR:MINOR ROOT MOUNTPOINT ...
    const auto words = split_words(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    if (words.size() < 5) continue;
    const auto id = parse_u64(words[0]), parent = parse_u64(words[1]);
    const auto point = unescape(words[4]);
    if (!id || !parent || !point) continue;
    mounts_.emplace(static_cast<int>(*id), Mount{static_cast<int>(*parent), *point});
  }
}

/// Of the mounts on `above` that the path leads through: the one that is met first, which is that of the shortest name; of
/// one name there is only one. 0 for none.
int MountTable::next(int above, std::string_view path, size_t least) const {
  int found = 0;
  size_t length = SIZE_MAX;
  for (const auto& [id, mount] : mounts_) {
    if (mount.parent != above || id == above || mount.point.size() < least || mount.point.size() >= length) continue;
    if (!leads_through(path, mount.point)) continue;
    found = id;
    length = mount.point.size();
  }
  return found;
}

int MountTable::at(std::string_view path) const {
  int reached = 0;
  for (const auto& [id, mount] : mounts_) {
    // The root: what it is mounted on is not to be seen.
    if (!mounts_.contains(mount.parent) && mount.point == "/") reached = id;
  }
  for (int more = reached; more != 0; more = next(reached, path, mounts_.at(reached).point.size())) reached = more;
  return reached;
}

const char* MountTable::out_of_reach(int id, std::string_view path) const {
  if (!has(id)) return "on a mount that is in no place (unmounted, or never mounted)";
  return at(path) == id ? nullptr : "hidden by another mount";
}

}  // namespace ckpt
