// The FUSE handlers of names and attributes, and the table of all.
#include "ckptfs/operations.h"

#include <sys/statvfs.h>

#include "ckptfs/operation_parts.h"

namespace ckpt {

namespace {

static_assert(sizeof(fuse_ino_t) == sizeof(Ino), "image inode numbers need 64 bits");

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

void op_statfs(fuse_req_t req, fuse_ino_t) {
  checked_call(req, "statfs", [&] {
    const std::string& dir = filesystem(req).store_dir();
    struct statvfs figures {};
    if (::statvfs(dir.c_str(), &figures) != 0) fail_errno("{}: statvfs", dir);
    fuse_reply_statfs(req, &figures);
  });
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
    ops.statfs = op_statfs;
    add_file_operations(ops);
    add_directory_operations(ops);
    return ops;
  }();
  return operations;
}

}  // namespace ckpt
