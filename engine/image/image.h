// What an image is to everybody: a tree of regular files and symbolic links, named by relative paths such as
// "fds/3". Where the files live (the store, a directory, the drop box) is behind the two interfaces here.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/image/digest.h"

namespace ckpt {

enum class EntryType : uint8_t { file = 0, symlink = 1 };

struct ImageEntry {
  std::string path;      ///< relative, no empty, "." or ".." component (see valid_image_path)
  EntryType type = EntryType::file;
  uint64_t size = 0;     ///< bytes; of a link the length of its target
};

/// The read side. Immutable; thread-safe.
class ImageSource {
 public:
  virtual ~ImageSource() = default;

  /// How to call this image in a message: "images/1234", "/backup/1234".
  virtual std::string describe() const = 0;
  /// Every file and link, sorted by path. Directories are implied.
  virtual const std::vector<ImageEntry>& entries() const = 0;

  virtual std::string read_link(std::string_view path) const = 0;
  /// Calls `visit` with consecutive pieces that cover [offset, offset + length) of a file, in order. A piece is valid
  /// only during its call; a run of zero pages comes as a piece of zeros of any length. Throws Error: ENOENT, EINVAL
  /// beyond the end, EIO for a damaged page (nothing damaged is ever handed out).
  using Visitor = std::function<void(uint64_t offset, std::span<const std::byte> piece)>;
  virtual void visit(std::string_view path, uint64_t offset, uint64_t length, const Visitor& v) const = 0;
  /// The digest of a file's content as it is now (not what the manifest says).
  virtual Digest digest(std::string_view path) const = 0;

  // Conveniences on top of the above.
  /// The entry, or nothing where the path is not a file or link of the image.
  virtual const ImageEntry* find(std::string_view path) const;
  bool has(std::string_view path) const { return find(path) != nullptr; }
  /// A whole small file. ENOENT names image and file; EFBIG above `limit`.
  std::string read(std::string_view path, uint64_t limit = 64 << 20) const;
  void read_at(std::string_view path, uint64_t offset, std::span<std::byte> out) const;
  /// Entries directly in or anywhere below the directory `dir` ("fds").
  std::vector<ImageEntry> below(std::string_view dir) const;
};

/// Whole pages of a block that are the same as in a file of an earlier image.
struct SamePages {
  size_t at = 0;               ///< in the block, in bytes
  size_t bytes = 0;
  std::string_view path;       ///< file of the earlier image
  uint64_t offset = 0;         ///< in that file
};

/// A file that is written in blocks, by several threads at once.
class BlockSink {
 public:
  virtual ~BlockSink() = default;
  /// Gives block `index` its content: kBlockSize bytes, fewer only in the last one. Each block exactly once, in any
  /// order, from any thread. Throws Error (ENOSPC, EIO).
  virtual void put_block(uint64_t index, std::span<const std::byte> data) = 0;
  /// The same for a block of which `same` (ascending) stands in `base`: where that is an image of the same store its pages
  /// are referred to, neither read nor hashed. What `data` holds in their place is of no matter, and may be changed.
  virtual void put_block(uint64_t index, std::span<std::byte> data, const ImageSource& base,
                         std::span<const SamePages> same);
};

/// The write side: an image being made. All calls are thread-safe.
class ImageSink {
 public:
  virtual ~ImageSink() = default;
  /// Adds a small file whole. EEXIST if the path is there already; EINVAL for a path that is not valid.
  virtual void put(std::string_view path, std::string_view content) = 0;
  virtual void put_link(std::string_view path, std::string_view target) = 0;
  /// Adds a file of `size` bytes to be filled with put_block before the image is finished.
  virtual std::shared_ptr<BlockSink> create(std::string_view path, uint64_t size) = 0;
};

/// True for a path that may stand in an image: relative, at most 4095 bytes, no empty, "." or ".." component, no NUL.
bool valid_image_path(std::string_view path);
/// Where the files of a process stand in the image of `root` and its descendants: "" or "children/PID/".
std::string process_prefix(pid_t pid, pid_t root);

/// An image in an ordinary directory (an archive). Opens the directory once and never follows a symbolic link out
/// of it; special files are refused. The caller must keep the tree unchanged meanwhile.
std::unique_ptr<ImageSource> open_directory_image(const std::string& dir);

}  // namespace ckpt
