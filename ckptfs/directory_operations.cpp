// The FUSE handlers of open directories.
#include <algorithm>

#include "ckptfs/operation_parts.h"

namespace ckpt {

namespace {

/// An open directory: its entries as they were when reading began.
struct OpenDirectory {
  std::mutex mutex;   ///< guards entries
  std::vector<DirEntry> entries;
};

using OpenDirectoryPtr = std::shared_ptr<OpenDirectory>;

/// fi->fh points to a shared pointer, for the same reason as for files.
OpenDirectoryPtr& open_directory(const fuse_file_info* fi) { return *reinterpret_cast<OpenDirectoryPtr*>(fi->fh); }

void op_opendir(fuse_req_t req, fuse_ino_t ino, fuse_file_info* fi) {
  checked_call(req, "opendir", [&] {
    const NodePtr opened = node(req, ino);
    if (!S_ISDIR(opened->stat().st_mode)) fail(ENOTDIR, "not a directory");
    opened->open_directory(decode(req));
    fi->fh = reinterpret_cast<uint64_t>(new OpenDirectoryPtr(std::make_shared<OpenDirectory>()));
    if (fuse_reply_open(req, fi) != 0) delete &open_directory(fi);
  });
}

/// Adds one entry to the reply; returns the bytes it takes, and takes nothing where it does not fit.
size_t add_entry(fuse_req_t req, char* at, size_t room, const DirEntry& e, off_t next, bool plus) {
  fuse_entry_param entry{};
  entry.attr.st_ino = e.ino;
  entry.attr.st_mode = e.type;
  if (!plus) return fuse_add_direntry(req, at, room, e.name.c_str(), &entry.attr, next);
  // With no node the kernel gets the name only, and looks it up when it is wanted.
  if (e.node) entry = make_entry(req, e.node);
  const size_t used = fuse_add_direntry_plus(req, at, room, e.name.c_str(), &entry, next);
  if (used > room && e.node) filesystem(req).inodes().forget(entry.ino, 1);
  return used;
}

/// A reader asks for up to a megabyte at once, and few directories here fill this.
constexpr size_t kReadDirectory = 32 << 10;

void read_directory(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, fuse_file_info* fi, bool plus) {
  checked_call(req, plus ? "readdirplus" : "readdir", [&] {
    const OpenDirectoryPtr dir_alive = open_directory(fi);
    OpenDirectory& dir = *dir_alive;
    const std::lock_guard lock(dir.mutex);
    if (offset == 0) {
      dir.entries = {{".", ino, S_IFDIR, nullptr}, {"..", kRootIno, S_IFDIR, nullptr}};
      for (DirEntry& entry : node(req, ino)->list(decode(req))) dir.entries.push_back(std::move(entry));
    }
    size = std::min(size, kReadDirectory);
    std::vector<char> buffer(size);
    size_t used = 0;
    for (auto i = static_cast<size_t>(offset); i < dir.entries.size(); ++i) {
      const size_t more = add_entry(req, buffer.data() + used, size - used, dir.entries[i],
                                    static_cast<off_t>(i + 1), plus);
      if (more > size - used) break;
      used += more;
    }
    fuse_reply_buf(req, buffer.data(), used);
  });
}

void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, fuse_file_info* fi) {
  read_directory(req, ino, size, offset, fi, false);
}

void op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, fuse_file_info* fi) {
  read_directory(req, ino, size, offset, fi, true);
}

void op_releasedir(fuse_req_t req, fuse_ino_t, fuse_file_info* fi) {
  delete &open_directory(fi);
  ok(req);
}

}  // namespace

void add_directory_operations(fuse_lowlevel_ops& operations) {
  operations.opendir = op_opendir;
  operations.readdir = op_readdir;
  operations.readdirplus = op_readdirplus;
  operations.releasedir = op_releasedir;
}

}  // namespace ckpt
