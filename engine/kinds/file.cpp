#include "engine/kinds/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <array>

#include "engine/base/error.h"
#include "engine/kinds/fd_flags.h"
#include "engine/kinds/named_file.h"
#include "engine/kinds/named_memory.h"

namespace ckpt {

namespace {

/// Filesystems made of functions: what stat says of size and time has nothing to do with the content.
bool is_synthetic(const std::string& fs_type) {
  static constexpr std::array kTypes = {"proc",     "sysfs",      "cgroup",   "cgroup2",  "debugfs",
                                        "tracefs",  "securityfs", "configfs", "efivarfs", "fuse.ckptfs",
                                        "binfmt_misc"};
  return std::find(kTypes.begin(), kTypes.end(), fs_type) != kTypes.end();
}

int64_t mtime_ns(const struct stat& st) { return st.st_mtim.tv_sec * 1'000'000'000LL + st.st_mtim.tv_nsec; }

void check_unchanged(const FoundFile& found, const Record& record) {
  const auto size = static_cast<uint64_t>(found.st.st_size);
  const bool write_only = (record.get_u64("flags", UINT32_MAX) & O_ACCMODE) == O_WRONLY;
  const bool own_output = write_only && found.same_inode;
  const uint64_t recorded = record.get_u64_or("size", size);
  if (own_output ? size < recorded : size != recorded) {
    fail(ESTALE, "{}: has changed since the checkpoint: its size was {} and is {}", found.name, recorded, size);
  }
  if (!own_output && record.has("mtime_ns") && record.get_i64("mtime_ns") != mtime_ns(found.st)) {
    fail(ESTALE, "{}: has changed since the checkpoint: it was modified later", found.name);
  }
}

class FileKind : public DescriptorKind {
 public:
  const char* name() const override { return "file"; }

  bool matches(const OpenFd& fd) const override {
    // Secret memory, for one, has a link and a path, and is on a mount that nobody sees.
    const bool mounted = major(fd.st.st_dev) != 0 || !fd.fs_type.empty();
    return S_ISREG(fd.st.st_mode) && fd.st.st_nlink > 0 && fd.target.starts_with('/') && mounted;
  }

  void capture(const CaptureContext& ctx, const OpenFd& fd, Record& out) const override {
    capture_name(ctx, fd, out);
    if (is_synthetic(fd.fs_type)) return;
    out.add("size", static_cast<uint64_t>(fd.st.st_size));
    out.add("mtime_ns", mtime_ns(fd.st));
  }

  UniqueFd restore(const RestoreContext& ctx, const Record& record) const override {
    bring_back_named_memory(ctx, record);
    const FoundFile found = find_named(ctx, record);
    if (!S_ISREG(found.st.st_mode)) fail(EINVAL, "{}: is not a regular file", found.name);
    check_unchanged(found, record);
    UniqueFd fd = open_found(found, open_flags(record));
    set_position(fd.get(), record);
    return fd;
  }
};

}  // namespace

const DescriptorKind& file_kind() {
  static const FileKind kind;
  return kind;
}

}  // namespace ckpt
