#include "tools/ckpt/session.h"

#include <sys/stat.h>

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

}  // namespace ckpt::tool
