// The FUSE handlers of open files.
#include <algorithm>

#include "ckptfs/operation_parts.h"

namespace ckpt {

namespace {

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

}  // namespace

void add_file_operations(fuse_lowlevel_ops& operations) {
  operations.open = op_open;
  operations.create = op_create;
  operations.read = op_read;
  operations.write = op_write;
  operations.flush = op_flush;
  operations.release = op_release;
  operations.lseek = op_lseek;
  operations.copy_file_range = op_copy_file_range;
}

}  // namespace ckpt
