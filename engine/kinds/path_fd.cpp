#include "engine/kinds/path_fd.h"

#include <fcntl.h>

#include "engine/base/error.h"
#include "engine/kinds/fd_flags.h"
#include "engine/kinds/named_file.h"
#include "engine/process/mounts.h"

namespace ckpt {

namespace {

class PathKind : public DescriptorKind {
 public:
  const char* name() const override { return "path"; }
  bool matches(const OpenFd& fd) const override { return (fd.flags & O_PATH) != 0; }

  std::optional<std::string> refuse(const CaptureContext&, const OpenFd& fd) const override {
    if (!fd.target.starts_with('/') || fd.st.st_nlink == 0) {
      return fmt::format("an O_PATH descriptor of something without a name ({}) cannot be checkpointed", fd.target);
    }
    if (MountTable::now()->has(fd.mnt_id)) return std::nullopt;
    return fmt::format("an O_PATH descriptor on a mount that is in no place ({}) cannot be checkpointed", fd.target);
  }

  void capture(const CaptureContext& ctx, const OpenFd& fd, Record& out) const override {
    capture_name(ctx, fd, out);
  }

  UniqueFd restore(const RestoreContext& ctx, const Record& record) const override {
    const uint64_t flags = record.get_u64("flags", UINT32_MAX);
    FoundFile found = find_named(ctx, record, (flags & O_NOFOLLOW) != 0);
    if ((flags & O_NOFOLLOW) != 0) return std::move(found.path_fd);
    return open_found(found, open_flags(record) | O_PATH);
  }
};

}  // namespace

const DescriptorKind& path_kind() {
  static const PathKind kind;
  return kind;
}

}  // namespace ckpt
