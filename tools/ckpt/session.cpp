#include "tools/ckpt/session.h"

#include <sys/stat.h>

#include <array>
#include <cstdlib>

#include "engine/base/error.h"
#include "engine/base/fd.h"
#include "engine/base/record.h"

namespace ckpt::tool {

namespace {

std::string find_mount(const std::string& option) {
  if (!option.empty()) return option;
  if (const char* variable = std::getenv("CKPT_MOUNT"); variable && *variable) return variable;
  const auto mounts = ckptfs_mounts(read_file("/proc/self/mountinfo"));
  if (mounts.size() > 1) {
    fail(EINVAL, "several ckptfs are mounted ({}): say which one with --mount", fmt::join(mounts, ", "));
  }
  return mounts.empty() ? "/ckpt" : mounts[0];
}

}  // namespace

std::vector<std::string> ckptfs_mounts(std::string_view mountinfo) {
  std::vector<std::string> mounts;
  while (!mountinfo.empty()) {
    const size_t end = std::min(mountinfo.find('\n'), mountinfo.size());
    const auto words = split_words(mountinfo.substr(0, end));
    mountinfo.remove_prefix(std::min(end + 1, mountinfo.size()));
    // ID PARENT MAJOR:MINOR ROOT MOUNTPOINT OPTIONS [TAGS...] - TYPE SOURCE SUPEROPTIONS:
    // proc_pid_mountinfo(5)
    for (size_t i = 6; i + 1 < words.size(); ++i) {
      if (words[i] != "-") continue;
      if (words[i + 1] == "fuse.ckptfs") mounts.push_back(unescape(words[4]).value_or(words[4]));
      break;
    }
  }
  return mounts;
}

const std::string& Session::mount() {
  if (!mount_.empty()) return mount_;
  std::string found = find_mount(mount_option);
  while (found.size() > 1 && found.back() == '/') found.pop_back();
  struct stat st {};
  if (::stat((found + "/ctl").c_str(), &st) != 0 || !S_ISREG(st.st_mode)) {
    fail(ENOENT, "{}: no ckptfs is mounted here (mount one with `ckptfs {}`, or name it with --mount)", found,
         found);
  }
  return mount_ = found;
}

const std::shared_ptr<Store>& Session::store() {
  if (!store_) {
    // The engine would create a store that is missing; a tool that looks at one must not.
    struct stat st {};
    if (::stat(store_option.c_str(), &st) != 0) fail_errno("{}", store_option);
    store_ = open_rocksdb_store(store_option);
  }
  return store_;
}

bool Session::is_directory_word(const std::string& word) {
  return word.find('/') != std::string::npos || word == "." || word == "..";
}

std::shared_ptr<const ImageSource> Session::open_image(const std::string& word) {
  if (is_directory_word(word)) return open_directory_image(word);
  if (!valid_image_name(word)) fail(EINVAL, "'{}' is not a name that an image can have", escape(word));
  if (on_store()) return store()->open_image(word);
  const std::string dir = mount() + "/images/" + word;
  struct stat st {};
  if (::stat(dir.c_str(), &st) != 0) {
    if (errno == ENOENT) fail(ENOENT, "{}: there is no such image in {}/images", word, mount());
    fail_errno("{}", dir);
  }
  return open_directory_image(dir);
}

std::string human_bytes(uint64_t bytes) {
  constexpr std::array units{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  for (; value >= 1000 && unit + 1 < units.size(); ++unit) value /= 1024;
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.3g} {}", value, units[unit]);
}

std::string human_time(uint64_t ns) {
  constexpr std::array units{"ns", "us", "ms", "s"};
  double value = static_cast<double>(ns);
  size_t unit = 0;
  for (; value >= 1000 && unit + 1 < units.size(); ++unit) value /= 1000;
  return fmt::format("{:.4g} {}", value, units[unit]);
}

}  // namespace ckpt::tool
