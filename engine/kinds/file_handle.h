// File handles of name_to_handle_at(2): an inode's name that survives renames.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "engine/base/fd.h"

namespace ckpt {

struct FileHandle {
  int type = 0;
  std::vector<uint8_t> bytes;    ///< at most MAX_HANDLE_SZ (128)
  /// "TYPE:HEX", as it stands in a record.
  std::string text() const;
  /// Throws Error(EINVAL) that begins with `where`.
  static FileHandle parse(std::string_view text, const std::string& where);
};

/// The handle of the file that `path` leads to (magic links of /proc followed); nothing where the filesystem has none.
std::optional<FileHandle> file_handle_of(int dirfd, const std::string& path);

/// Opens an O_PATH descriptor of the inode on a mounted filesystem with the device number `dev`; none where it is
/// gone, not mounted, or the caller has no CAP_DAC_READ_SEARCH.
UniqueFd open_by_handle(const FileHandle& handle, dev_t dev);

/// The same on the mounts of another process (`proc_dir` is its /proc/PID).
UniqueFd open_by_handle_of(int proc_dir, const FileHandle& handle, dev_t dev);

}  // namespace ckpt
