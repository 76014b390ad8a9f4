// A file with a name: how its path is recorded, and how it is found again.
//
//   path /var/log/x            as the process itself sees it, below its root directory
//   outside_root 1             the file lies outside the process's root: the path is the system's
//   mode 0100644               octal; the file type must be the same again
//   dev 254:0                  device and inode at the checkpoint
//   inode 1234
//   handle 1:1ac50300...       type and bytes of name_to_handle_at(2), where the filesystem has them: finds the file
//                              again after a rename (a privileged caller only: open_by_handle_at needs
//                              CAP_DAC_READ_SEARCH)
//
// Shared by the kinds that are found by name: files, directories, FIFOs, devices, O_PATH descriptors.
#pragma once

#include "engine/kinds/kind.h"

namespace ckpt {

/// A path as /proc shows it -> as the process itself sees it, below its root; nothing where it lies outside.
std::optional<std::string> path_below_root(const CaptureContext& ctx, const std::string& target);
/// Adds `path` (and `outside_root`).
void capture_path(const CaptureContext& ctx, const std::string& target, Record& out);
/// Adds mode, dev, inode and handle. Asks no FUSE server.
void capture_name(const CaptureContext& ctx, const OpenFd& fd, Record& out);

/// A file found by its record: an O_PATH descriptor, so nothing was opened yet and nothing can have blocked.
struct FoundFile {
  UniqueFd path_fd;
  struct stat st = {};
  bool same_inode = false;       ///< device and inode as recorded
  std::string name;              ///< for messages: "images/1234/fds/3: /var/log/x"
};

/// Finds the file below ctx.root_fd: by its path, else by its handle. `nofollow` keeps a symbolic link at the end.
/// Throws Error: ENOENT, EACCES, ELOOP with the path; ESTALE where it is now a file of another type.
FoundFile find_named(const RestoreContext& ctx, const Record& record, bool nofollow = false);

/// Opens what was found with the flags of open_flags(). Throws Error with the name.
UniqueFd open_found(const FoundFile& found, int flags);

/// Opens an absolute path of the image below ctx.root_fd (magic links and ".." cannot leave it). `mode` is for
/// O_TMPFILE. Throws Error that begins with `where`.
UniqueFd open_in_root(const RestoreContext& ctx, const Record& record, const std::string& path, int flags,
                      unsigned mode = 0);

/// Adds `rdev`, the device number of a device file; the other checks a found file against it (Error(ENXIO)).
void capture_rdev(const OpenFd& fd, Record& out);
void check_rdev(const FoundFile& found, const Record& record);

/// Sets the position to the field `pos`. Throws Error.
void set_position(int fd, const Record& record);

/// Gives a new file the `uid` and `gid` of a record, where the caller is privileged, and the permissions of its `mode`. Throws Error.
void set_owner_and_mode(const RestoreContext& ctx, int fd, const Record& record);

/// The fields `mode` and `dev` of a record, strictly parsed.
uint32_t parse_mode(const Record& record);
dev_t record_dev(const Record& record, std::string_view field = "dev");

}  // namespace ckpt
