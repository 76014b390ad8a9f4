#include "engine/kinds/chardev.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "engine/base/error.h"
#include "engine/kinds/fd_flags.h"
#include "engine/kinds/named_file.h"

namespace ckpt {

namespace {

/// drivers/char/mem.c: the devices of major 1 that are pure functions.
bool is_stateless(dev_t rdev) {
  if (major(rdev) != 1) return false;
  const unsigned n = minor(rdev);
  return n == 3 || n == 5 || n == 7 || n == 8 || n == 9;
}

class CharDeviceKind : public DescriptorKind {
 public:
  const char* name() const override { return "chardev"; }

  bool matches(const OpenFd& fd) const override {
    return S_ISCHR(fd.st.st_mode) && is_stateless(fd.st.st_rdev) && fd.st.st_nlink > 0;
  }

  void capture(const CaptureContext& ctx, const OpenFd& fd, Record& out) const override {
    capture_name(ctx, fd, out);
    capture_rdev(fd, out);
  }

  UniqueFd restore(const RestoreContext& ctx, const Record& record) const override {
    const FoundFile found = find_named(ctx, record);
    check_rdev(found, record);
    if (!is_stateless(found.st.st_rdev)) fail(EINVAL, "{}: is not one of the devices of this type", found.name);
    return open_found(found, open_flags(record));
  }
};

}  // namespace

const DescriptorKind& chardev_kind() {
  static const CharDeviceKind kind;
  return kind;
}

}  // namespace ckpt
