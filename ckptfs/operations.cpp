#include "ckptfs/operations.h"

#include <sys/statvfs.h>

#include <algorithm>
#include <cstring>

#include "ckptfs/checked_call.h"
#include "ckptfs/filesystem.h"
#include "ckptfs/slow_call.h"

namespace ckpt {

namespace {

static_assert(sizeof(fuse_ino_t) == sizeof(Ino), "image inode numbers need 64 bits");

Filesystem& filesystem(fuse_req_t req) { return *static_cast<Filesystem*>(fuse_req_userdata(req)); }

Request decode(fuse_req_t req) {
  const fuse_ctx* context = fuse_req_ctx(req);
  return {context->pid, context->uid, context->gid};
}

NodePtr node(fuse_req_t req, fuse_ino_t ino) { return filesystem(req).inodes().get(ino); }

/// What fi->fh points to.
struct OpenFile {
  HandlePtr handle;
};

/// Shared, because the kernel may release the file as soon as it has the reply, before the handler has returned.
HandlePtr handle(const fuse_file_info* fi) { return reinterpret_cast<OpenFile*>(fi->fh)->handle; }

void set_handle(fuse_file_info* fi, const HandlePtr& opened) {
  fi->direct_io = opened->direct_io() ? 1 : 0;
  fi->keep_cache = opened->keep_cache() ? 1 : 0;
  fi->noflush = fi->keep_cache;  // it never changes: its close has nothing to tell
  fi->fh = reinterpret_cast<uint64_t>(new OpenFile{opened});
}

void drop_handle(fuse_file_info* fi) { delete reinterpret_cast<OpenFile*>(fi->fh); }

/// Counts the look-up that an answered entry means for the kernel.
fuse_entry_param make_entry(fuse_req_t req, const NodePtr& found) {
  const NodePtr known = filesystem(req).inodes().remember(found);
  fuse_entry_param entry{};
  entry.ino = known->ino();
  entry.attr_timeout = known->attribute_timeout();
  entry.entry_timeout = known->entry_timeout();
  try {
    entry.attr = known->attributes();
  } catch (...) {
    filesystem(req).inodes().forget(known->ino(), 1);
    throw;
  }
  return entry;
}

void reply_entry(fuse_req_t req, const NodePtr& found) {
  const fuse_entry_param entry = make_entry(req, found);
  // ENOENT: the caller was interrupted and the kernel has not taken the entry.
  if (fuse_reply_entry(req, &entry) != 0) filesystem(req).inodes().forget(entry.ino, 1);
}

/// Replies by `success` now, or when the work is done.
void reply_after(fuse_req_t req, const Request& request, Work work, SlowCall::Success success) {
  if (!work) return success(req);
  SlowCall::start(filesystem(req), req, request, std::move(work), std::move(success));
}

void ok(fuse_req_t req) { fuse_reply_err(req, 0); }

void op_init(void*, fuse_conn_info* connection) {
  constexpr unsigned kMegabyte = 1 << 20;
  connection->max_write = kMegabyte;
  connection->max_read = 0;
  connection->max_readahead = kMegabyte;
  connection->max_background = 64;
  connection->congestion_threshold = 48;
  connection->want |= connection->capable & FUSE_CAP_CACHE_SYMLINKS;
  // A write error must reach the writer, not vanish in a later write-back.
  connection->want &= ~static_cast<unsigned>(FUSE_CAP_WRITEBACK_CACHE);
}

void op_lookup(fuse_req_t req, fuse_ino_t parent, const char* name) {
  checked_call(req, "lookup", [&] {
    const NodePtr directory = node(req, parent);
    const NodePtr found = directory->lookup(decode(req), name);
    if (found) return reply_entry(req, found);
    fuse_entry_param absent{};
    absent.entry_timeout = directory->absence_timeout();
    fuse_reply_entry(req, &absent);
  });
}

void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t count) {
  filesystem(req).inodes().forget(ino, count);
  fuse_reply_none(req);
}

void op_forget_multi(fuse_req_t req, size_t count, fuse_forget_data* forgets) {
  for (size_t i = 0; i < count; ++i) filesystem(req).inodes().forget(forgets[i].ino, forgets[i].nlookup);
  fuse_reply_none(req);
}

void op_getattr(fuse_req_t req, fuse_ino_t ino, fuse_file_info*) {
  checked_call(req, "getattr", [&] {
    const NodePtr found = node(req, ino);
    const struct stat attributes = found->attributes();
    fuse_reply_attr(req, &attributes, found->attribute_timeout());
  });
}

void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat* values, int to_set, fuse_file_info*) {
  checked_call(req, "setattr", [&] {
    AttributeChanges changes;
    changes.mode = (to_set & FUSE_SET_ATTR_MODE) != 0;
    changes.uid = (to_set & FUSE_SET_ATTR_UID) != 0;
    changes.gid = (to_set & FUSE_SET_ATTR_GID) != 0;
    changes.size = (to_set & FUSE_SET_ATTR_SIZE) != 0;
    changes.atime_now = (to_set & FUSE_SET_ATTR_ATIME_NOW) != 0;
    changes.mtime_now = (to_set & FUSE_SET_ATTR_MTIME_NOW) != 0;
    changes.atime = changes.atime_now || (to_set & FUSE_SET_ATTR_ATIME) != 0;
    changes.mtime = changes.mtime_now || (to_set & FUSE_SET_ATTR_MTIME) != 0;
    const NodePtr found = node(req, ino);
    found->set_attributes(decode(req), *values, changes);
    const struct stat attributes = found->attributes();
    fuse_reply_attr(req, &attributes, found->attribute_timeout());
  });
}

void op_readlink(fuse_req_t req, fuse_ino_t ino) {
  checked_call(req, "readlink", [&] { fuse_reply_readlink(req, node(req, ino)->read_link().c_str()); });
}

void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode) {
  checked_call(req, "mkdir",
               [&] { reply_entry(req, node(req, parent)->make_directory(decode(req), name, mode)); });
}

void op_symlink(fuse_req_t req, const char* target, fuse_ino_t parent, const char* name) {
  checked_call(req, "symlink", [&] {
    const Request request = decode(req);
    auto [made, work] = node(req, parent)->make_link(request, name, target);
    reply_after(req, request, std::move(work), [link = made](fuse_req_t r) {
      checked_call(r, "symlink", [&] { reply_entry(r, link); });
    });
  });
}

void op_unlink(fuse_req_t req, fuse_ino_t parent, const char* name) {
  checked_call(req, "unlink", [&] {
    node(req, parent)->remove_file(decode(req), name);
    ok(req);
  });
}

void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char* name) {
  checked_call(req, "rmdir", [&] {
    node(req, parent)->remove_directory(decode(req), name);
    ok(req);
  });
}

void op_rename(fuse_req_t req, fuse_ino_t parent, const char* name, fuse_ino_t new_parent, const char* new_name,
               unsigned flags) {
  checked_call(req, "rename", [&] {
    if ((flags & ~static_cast<unsigned>(RENAME_NOREPLACE)) != 0) fail(EINVAL, "{}: cannot be exchanged", name);
    const Request request = decode(req);
    const NodePtr target = node(req, new_parent);
    // RENAME_NOREPLACE needs nothing here: the kernel has looked the new name up.
    Work work = node(req, parent)->rename(request, name, *target, new_name);
    reply_after(req, request, std::move(work), ok);
  });
}

void op_open(fuse_req_t req, fuse_ino_t ino, fuse_file_info* fi) {
  checked_call(req, "open", [&] {
    set_handle(fi, node(req, ino)->open(decode(req), fi->flags));
    if (fuse_reply_open(req, fi) != 0) drop_handle(fi);
  });
}

void op_create(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode, fuse_file_info* fi) {
  checked_call(req, "create", [&] {
    const auto [made, opened] = node(req, parent)->create(decode(req), name, mode, fi->flags);
    const fuse_entry_param entry = make_entry(req, made);
    set_handle(fi, opened);
    if (fuse_reply_create(req, &entry, fi) != 0) {
      drop_handle(fi);
      filesystem(req).inodes().forget(entry.ino, 1);
    }
  });
}

void op_read(fuse_req_t req, fuse_ino_t, size_t size, off_t offset, fuse_file_info* fi) {
  bool replied = false;
  try {
    const HandlePtr opened = handle(fi);
    opened->read(decode(req), static_cast<uint64_t>(offset), size, [&](std::span<const std::byte> piece) {
      replied = true;
      fuse_reply_buf(req, reinterpret_cast<const char*>(piece.data()), piece.size());
    });
  } catch (...) {
    const int err = errno_of_current_exception("read");
    if (!replied) fuse_reply_err(req, err);
  }
}

void op_write(fuse_req_t req, fuse_ino_t, const char* data, size_t size, off_t offset, fuse_file_info* fi) {
  checked_call(req, "write", [&] {
    const Request request = decode(req);
    Work work = handle(fi)->write(request, static_cast<uint64_t>(offset), std::as_bytes(std::span(data, size)));
    reply_after(req, request, std::move(work), [size](fuse_req_t r) { fuse_reply_write(r, size); });
  });
}

void op_flush(fuse_req_t req, fuse_ino_t, fuse_file_info* fi) {
  checked_call(req, "flush", [&] {
    const Request request = decode(req);
    reply_after(req, request, handle(fi)->flush(request), ok);
  });
}

void op_release(fuse_req_t req, fuse_ino_t, fuse_file_info* fi) {
  drop_handle(fi);
  ok(req);
}

void op_lseek(fuse_req_t req, fuse_ino_t, off_t offset, int whence, fuse_file_info* fi) {
  checked_call(req, "lseek", [&] {
    // All of a file is data, zeros included: whoever looks for holes would otherwise copy by read and write.
    const auto size = static_cast<off_t>(handle(fi)->size());
    if (whence != SEEK_DATA && whence != SEEK_HOLE) fail(EINVAL, "lseek: whence {} is not known", whence);
    if (offset < 0 || offset >= size) fail(ENXIO, "lseek: beyond the end");
    fuse_reply_lseek(req, whence == SEEK_DATA ? offset : size);
  });
}

void op_copy_file_range(fuse_req_t req, fuse_ino_t, off_t from_offset, fuse_file_info* from, fuse_ino_t,
                        off_t offset, fuse_file_info* to, size_t length, int) {
  checked_call(req, "copy_file_range", [&] {
    const uint64_t taken = handle(to)->copy_from(decode(req), *handle(from), static_cast<uint64_t>(from_offset),
                                                static_cast<uint64_t>(offset), length);
    fuse_reply_write(req, taken);
  });
}

void op_statfs(fuse_req_t req, fuse_ino_t) {
  checked_call(req, "statfs", [&] {
    const std::string& dir = filesystem(req).store_dir();
    struct statvfs figures {};
    if (::statvfs(dir.c_str(), &figures) != 0) fail_errno("{}: statvfs", dir);
    fuse_reply_statfs(req, &figures);
  });
}

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

const struct fuse_lowlevel_ops& fuse_operations() {
  // No setxattr and no removexattr: cp -a fails on a filesystem that has only one of them, and images have none.
  static const struct fuse_lowlevel_ops operations = [] {
    struct fuse_lowlevel_ops ops {};
    ops.init = op_init;
    ops.lookup = op_lookup;
    ops.forget = op_forget;
    ops.forget_multi = op_forget_multi;
    ops.getattr = op_getattr;
    ops.setattr = op_setattr;
    ops.readlink = op_readlink;
    ops.mkdir = op_mkdir;
    ops.symlink = op_symlink;
    ops.unlink = op_unlink;
    ops.rmdir = op_rmdir;
    ops.rename = op_rename;
    ops.open = op_open;
    ops.create = op_create;
    ops.read = op_read;
    ops.write = op_write;
    ops.flush = op_flush;
    ops.release = op_release;
    ops.lseek = op_lseek;
    ops.copy_file_range = op_copy_file_range;
    ops.statfs = op_statfs;
    ops.opendir = op_opendir;
    ops.readdir = op_readdir;
    ops.readdirplus = op_readdirplus;
    ops.releasedir = op_releasedir;
    return ops;
  }();
  return operations;
}

}  // namespace ckpt
