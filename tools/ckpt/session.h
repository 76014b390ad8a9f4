// What every subcommand of `ckpt` shares: the mount or the store it speaks to, and how results are shown.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/image/image.h"
#include "engine/store/store.h"
#include "tools/ckpt/text.h"

namespace ckpt::tool {

/// Exit codes of `ckpt`, the same for every subcommand unless its manual says otherwise.
inline constexpr int kOk = 0;
inline constexpr int kFailed =
    1;                            ///< a sentence stands on stderr; `diff`: the images differ, `check`: damage
inline constexpr int kUsage = 2;  ///< wrong usage; `diff` and `check`: trouble
inline constexpr int kNotStarted = 125;  ///< `restore -f`: the program could not be resumed
inline constexpr int kSignalBase = 128;  ///< `restore -f`: 128 + n where signal n ended the program

/// Not thread-safe.
class Session {
 public:
  std::string mount_option;  ///< --mount
  std::string store_option;  ///< --store
  bool json = false;         ///< --json

  /// --store was given: the work is done on an unmounted store.
  bool on_store() const { return !store_option.empty(); }

  /// The mount point: --mount, else $CKPT_MOUNT, else the one ckptfs in /proc/self/mountinfo, else /ckpt.
  /// Throws Error(ENOENT) where no ckptfs is mounted there, EINVAL where several are and none was named.
  const std::string& mount();
  /// The store of --store, opened once. Throws Error: EBUSY where it is mounted.
  const std::shared_ptr<Store>& store();

  /// An image by the word that a user gives: a path (it has a slash, or is "." or "..") is a directory;
  /// anything else is a name in the mount or store. Throws Error(ENOENT).
  std::shared_ptr<const ImageSource> open_image(const std::string& word);
  /// True where the word names a directory rather than an image of the mount.
  static bool is_directory_word(const std::string& word);

 private:
  std::string mount_;
  std::shared_ptr<Store> store_;
};

}  // namespace ckpt::tool
