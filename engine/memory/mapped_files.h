// Ordinary files that a process has mapped: which they were at the checkpoint, and that they are still the same.
//
//   files      a block of lines a file, in the order in which the maps first name them:
//
//     mapping 254:0 1234          device and inode as in the maps
//     path /usr/lib/libc.so.6     and mode, dev, inode, handle, as in fds/N (engine/kinds/named_file.h)
//     size 1926256                bytes
//     mtime_ns 1700000000000000000
//     build_id 3c05...            of an ELF file that has one
//
// A privately mapped file must be found with the same size, modification time and build-id, or the program would go on
// with other code; where it lies, and its inode, may have changed (another machine, a package installed again). A
// file that is only mapped shared shows whatever is in it now, so it need only be as long as it was. Files of a FUSE
// filesystem are recorded by path alone: asking the server could mean to wait for ourselves.
#pragma once

#include <map>
#include <tuple>

#include "engine/image/maps.h"
#include "engine/kinds/kind.h"
#include "engine/kinds/named_file.h"

namespace ckpt {

/// Whether a mapping is one of a file with a name, that `files` tells of.
bool maps_named_file(const Vma& vma);

/// The very file of a mapping, opened with O_PATH; none where it cannot be opened. Throws Error(ESTALE).
UniqueFd hold_file(const CaptureContext& ctx, const Vma& vma);

/// Device numbers ("0:27") of the filesystems that the process sees whose type begins so.
std::set<std::string> devices_of(const CaptureContext& ctx, std::string_view type);

/// Writes `files`. While the process is stopped; what can wait is left to ctx.later. Throws Error.
void capture_mapped_files(const CaptureContext& ctx, const std::vector<Vma>& vmas);

/// The mapped files of an image, found, checked and opened with the rights of the calling thread.
class MappedFiles {
 public:
  /// Throws Error: ENOENT, EACCES, ESTALE "images/1234: /usr/lib/x.so has changed since the checkpoint (size 10 ->
  /// 12)", EINVAL for a malformed record.
  MappedFiles(const RestoreContext& ctx, const std::vector<Vma>& vmas);

  /// The descriptor for a mapping that maps_named_file(), open as the mapping needs it. Owned here.
  int descriptor(const Vma& vma) const;
  size_t count() const { return open_.size(); }

 private:
  using Key = std::tuple<uint32_t, uint32_t, uint64_t, bool>;   // device, inode, writable
  std::map<Key, UniqueFd> open_;
};

/// Whether the file behind a mapping must be open for writing: a shared mapping that may be made writable.
bool needs_write_access(const Vma& vma);

}  // namespace ckpt
