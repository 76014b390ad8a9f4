#include "engine/kinds/unnamed_file.h"

#include <linux/magic.h>
#include <sys/statfs.h>

#include "engine/base/error.h"
#include "engine/kinds/memory_object.h"
#include "engine/kinds/pipe.h"

namespace ckpt {

namespace {

bool is_memfd(const OpenFd& fd) { return is_unnamed(fd) && fd.target.starts_with("/memfd:"); }

class UnnamedKind : public DescriptorKind {
 public:
  std::optional<std::string> refuse(const CaptureContext& ctx, const OpenFd& fd) const override {
    // Only huge pages, hugetlbfs among them, have such a block size; statfs tells them apart. No FUSE server is asked.
    if (fd.st.st_blksize <= static_cast<long>(kPageSize) || fd.fs_type.starts_with("fuse")) return std::nullopt;
    struct statfs fs = {};
    const std::string link = fmt::format("/proc/{}/fd/{}", ctx.pid, fd.fd);
    if (statfs(link.c_str(), &fs) != 0 || fs.f_type != HUGETLBFS_MAGIC) return std::nullopt;
    return fmt::format("memory in huge pages ({}) cannot be checkpointed", fd.target);
  }

  void capture(const CaptureContext& ctx, const OpenFd& fd, Record& out) const override {
    out.add("object", capture_memory_object(ctx, ctx.take(fd.fd).get(), fd.target));
  }

  UniqueFd restore(const RestoreContext& ctx, const Record& record) const override {
    return open_memory_object(ctx, object_name(record, "memory-"), record);
  }

  void finish(const RestoreContext& ctx, const Record& record, int fd, Remote& leader) const override {
    finish_memory_object(ctx, object_name(record, "memory-"), fd, leader);
  }
};

class MemfdKind : public UnnamedKind {
 public:
  const char* name() const override { return "memfd"; }
  bool matches(const OpenFd& fd) const override { return is_memfd(fd); }
};

class DeletedKind : public UnnamedKind {
 public:
  const char* name() const override { return "deleted"; }
  bool matches(const OpenFd& fd) const override { return is_unnamed(fd) && !is_memfd(fd); }
};

}  // namespace

const DescriptorKind& memfd_kind() {
  static const MemfdKind kind;
  return kind;
}

const DescriptorKind& deleted_kind() {
  static const DeletedKind kind;
  return kind;
}

}  // namespace ckpt
