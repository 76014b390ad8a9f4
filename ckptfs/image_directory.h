// The directory that a process wants its own image in (ckpt_checkpoint(2) with a descriptor).
#pragma once

#include <sys/types.h>

#include <string>

#include "engine/base/fd.h"
#include "engine/caller.h"
#include "engine/image/image.h"

namespace ckpt {

class ImageDirectory {
 public:
  /// Takes the directory over from descriptor `fd` of process `pid`, which `caller` must be allowed to checkpoint. Throws
  /// Error: EBADF, ENOTDIR, EOPNOTSUPP (a directory of a FUSE server, which could keep us waiting for ever, and may wait
  /// for the stopped process, or be ourselves).
  ImageDirectory(const Caller& caller, pid_t pid, int fd);

  const std::string& name() const { return name_; }
  /// As write_directory(), with the rights of the caller.
  void write(const ImageSource& image) const;

 private:
  const Caller caller_;
  UniqueFd directory_;
  std::string name_;   ///< its path as the daemon sees it, for messages
};

}  // namespace ckpt
