// The nodes of the mounted tree and the open files on them: what the FUSE handlers call.
//
// A node is anything with an inode number. The base class refuses everything with the errno that a read-only
// filesystem gives; a kind of node overrides what it can do. Every call is thread-safe and reports by throwing Error.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ckptfs/request.h"
#include "engine/base/error.h"
#include "engine/image/image.h"

namespace ckpt {

using Ino = uint64_t;

// Numbers of the fixed nodes, and where the other kinds start: an image's nodes are numbered from the image's id,
// so that they are the same after a remount; everything else gets the next free number.
inline constexpr Ino kRootIno = 1;
inline constexpr Ino kCtlIno = 2;
inline constexpr Ino kImagesIno = 3;
inline constexpr Ino kCoresIno = 4;
inline constexpr Ino kRestoreIno = 5;
inline constexpr Ino kStatsIno = 6;
inline constexpr Ino kCoreInoBase = Ino{1} << 61;
inline constexpr Ino kDynamicInoBase = Ino{1} << 62;
inline constexpr unsigned kInoBitsPerImage = 24;

/// Seconds that the kernel may trust what never changes behind its back.
inline constexpr double kForever = 86400;

/// A number that no other node has, for nodes that live as long as this mount at most. Thread-safe.
Ino next_dynamic_ino();

class Node;
using NodePtr = std::shared_ptr<Node>;

/// One open file.
class Handle {
 public:
  virtual ~Handle() = default;

  /// Bypasses the page cache: content that changes by itself, or whose size is not known before.
  virtual bool direct_io() const { return false; }
  /// The page cache may be kept from one open to the next: content that never changes.
  virtual bool keep_cache() const { return false; }

  /// Hands [offset, offset + size), cut at the end of the file, to `answer` as one piece, exactly once and as the
  /// last thing it does.
  using Answer = std::function<void(std::span<const std::byte>)>;
  virtual void read(const Request& request, uint64_t offset, size_t size, const Answer& answer);
  virtual Work write(const Request& request, uint64_t offset, std::span<const std::byte> data);
  /// At every close(2) of a descriptor; its error is close's error.
  virtual Work flush(const Request& /*request*/) { return {}; }
  virtual uint64_t size() const { return 0; }

  /// For copy_file_range: the stored image and path whose content this is. Valid while the handle is.
  struct Source {
    const ImageSource* image = nullptr;
    std::string path;
  };
  virtual std::optional<Source> source() const { return std::nullopt; }
  /// Takes from another open file; returns the bytes taken. EXDEV makes the kernel copy by read and write.
  virtual uint64_t copy_from(const Request& request, Handle& from, uint64_t from_offset, uint64_t offset,
                             uint64_t length);
};
using HandlePtr = std::shared_ptr<Handle>;

struct DirEntry {
  std::string name;
  Ino ino = 0;
  mode_t type = S_IFREG;
  NodePtr node;   ///< null where it is only made when it is looked up
};

/// Which attributes a set_attributes() call changes; the values are in the struct stat beside it.
struct AttributeChanges {
  bool mode = false, uid = false, gid = false, size = false, atime = false, mtime = false;
  bool atime_now = false, mtime_now = false;
};

class Node : public std::enable_shared_from_this<Node> {
 public:
  explicit Node(Ino ino) : ino_(ino) {}
  virtual ~Node() = default;
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  Ino ino() const { return ino_; }
  /// Everything but st_ino, which is filled in by attributes().
  virtual struct stat stat() const = 0;
  struct stat attributes() const;
  /// Seconds for which the kernel may trust the attributes, and the name under which the node was found.
  virtual double attribute_timeout() const { return 0; }
  virtual double entry_timeout() const { return 0; }
  /// How long the kernel may keep that a name is not in this directory.
  virtual double absence_timeout() const { return 0; }
  virtual void set_attributes(const Request&, const struct stat&, const AttributeChanges&);

  virtual std::string read_link() const;
  /// `flags` as for open(2).
  virtual HandlePtr open(const Request&, int flags);

  // Of directories.
  /// May refuse an opendir(3).
  virtual void open_directory(const Request&) {}
  /// Null where there is none, and none comes but through the kernel, which may remember that. Error(ENOENT) where one
  /// may come by itself.
  virtual NodePtr lookup(const Request&, const std::string& name);
  virtual std::vector<DirEntry> list(const Request&);
  virtual std::pair<NodePtr, HandlePtr> create(const Request&, const std::string& name, mode_t mode, int flags);
  virtual NodePtr make_directory(const Request&, const std::string& name, mode_t mode);
  virtual std::pair<NodePtr, Work> make_link(const Request&, const std::string& name, const std::string& target);
  virtual void remove_file(const Request&, const std::string& name);
  virtual void remove_directory(const Request&, const std::string& name);
  virtual Work rename(const Request&, const std::string& name, Node& new_parent, const std::string& new_name);

 private:
  const Ino ino_;
};

/// A stat of a directory or file with the usual derived fields: st_blocks is full (the size rounded up), because cp
/// goes looking for holes, and does not use copy_file_range, where st_blocks * 512 < st_size.
struct stat make_stat(mode_t mode, uid_t uid, gid_t gid, uint64_t size, nlink_t links, struct timespec time);

struct timespec to_timespec(uint64_t ns);
struct timespec now();

/// Cuts `content` to the wanted range: the read() of small files that are made in memory.
std::span<const std::byte> slice(std::string_view content, uint64_t offset, size_t size);

}  // namespace ckpt
