// What the FUSE handlers have in common: decoding a request, and its replies. For the files that define handlers only.
#pragma once

#include "ckptfs/checked_call.h"
#include "ckptfs/filesystem.h"
#include "ckptfs/slow_call.h"

namespace ckpt {

inline Filesystem& filesystem(fuse_req_t req) { return *static_cast<Filesystem*>(fuse_req_userdata(req)); }

inline Request decode(fuse_req_t req) {
  const fuse_ctx* context = fuse_req_ctx(req);
  return {context->pid, context->uid, context->gid};
}

inline NodePtr node(fuse_req_t req, fuse_ino_t ino) { return filesystem(req).inodes().get(ino); }

/// Counts the look-up that an answered entry means for the kernel.
inline fuse_entry_param make_entry(fuse_req_t req, const NodePtr& found) {
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

inline void reply_entry(fuse_req_t req, const NodePtr& found) {
  const fuse_entry_param entry = make_entry(req, found);
  // ENOENT: the caller was interrupted and the kernel has not taken the entry.
  if (fuse_reply_entry(req, &entry) != 0) filesystem(req).inodes().forget(entry.ino, 1);
}

/// Replies by `success` now, or when the work is done.
inline void reply_after(fuse_req_t req, const Request& request, Work work, SlowCall::Success success) {
  if (!work) return success(req);
  SlowCall::start(filesystem(req), req, request, std::move(work), std::move(success));
}

inline void ok(fuse_req_t req) { fuse_reply_err(req, 0); }

/// Each adds its handlers.
void add_file_operations(fuse_lowlevel_ops& operations);
void add_directory_operations(fuse_lowlevel_ops& operations);

}  // namespace ckpt
