#include "engine/kinds/directory.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "engine/base/error.h"
#include "engine/kinds/fd_flags.h"
#include "engine/kinds/named_file.h"
#include "engine/process/mounts.h"

namespace ckpt {

namespace {

class DirectoryKind : public DescriptorKind {
 public:
  const char* name() const override { return "directory"; }

  bool matches(const OpenFd& fd) const override { return S_ISDIR(fd.st.st_mode) && fd.target.starts_with('/'); }

  std::optional<std::string> refuse(const CaptureContext& ctx, const OpenFd& fd) const override {
    if (fd.st.st_nlink == 0) return fmt::format("a deleted directory ({}) cannot be checkpointed", fd.target);
    if (!MountTable::now()->has(fd.mnt_id)) {
      return fmt::format("a directory on a mount that is in no place ({}) cannot be checkpointed", fd.target);
    }
    // The kernel keeps no other account of F_NOTIFY than the owner that it sets (fcntl_dirnotify() in fs/notify).
    f_owner_ex owner = {};
    if (fcntl(ctx.take(fd).get(), F_GETOWN_EX, &owner) == 0 && owner.pid != 0) {
      return fmt::format("a directory that is watched with F_NOTIFY ({}) cannot be checkpointed", fd.target);
    }
    return std::nullopt;
  }

  void capture(const CaptureContext& ctx, const OpenFd& fd, Record& out) const override {
    capture_name(ctx, fd, out);
  }

  UniqueFd restore(const RestoreContext& ctx, const Record& record) const override {
    const FoundFile found = find_named(ctx, record);
    if (!S_ISDIR(found.st.st_mode)) fail(EINVAL, "{}: is not a directory", found.name);
    UniqueFd fd = open_found(found, open_flags(record));
    set_position(fd.get(), record);
    return fd;
  }
};

}  // namespace

const DescriptorKind& directory_kind() {
  static const DirectoryKind kind;
  return kind;
}

}  // namespace ckpt
