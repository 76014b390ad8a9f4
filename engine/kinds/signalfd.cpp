#include "engine/kinds/signalfd.h"

#include <fcntl.h>
#include <sys/syscall.h>

#include "engine/base/error.h"
#include "engine/kinds/fd_flags.h"

namespace ckpt {

namespace {

class SignalfdKind : public DescriptorKind {
 public:
  const char* name() const override { return "signalfd"; }
  bool matches(const OpenFd& fd) const override { return fd.target == "anon_inode:[signalfd]"; }

  void capture(const CaptureContext& ctx, const OpenFd& fd, Record& out) const override {
    const auto mask = parse_u64("0x" + fd.info("sigmask").value_or(""));
    if (!mask) fail(EIO, "{}: fd {}: the mask of the signalfd cannot be read", ctx.pid, fd.fd);
    out.add_hex("mask", *mask);
  }

  UniqueFd restore(const RestoreContext&, const Record& record) const override {
    // The system call itself: glibc's wrapper takes its own signals (32, 33) out of the mask.
    const uint64_t mask = record.get_u64("mask");
    UniqueFd fd(static_cast<int>(syscall(SYS_signalfd4, -1, &mask, sizeof mask, O_CLOEXEC)));
    if (!fd) fail_errno("{}: signalfd", record.where());
    set_status_flags(fd.get(), record);
    return fd;
  }
};

}  // namespace

const DescriptorKind& signalfd_kind() {
  static const SignalfdKind kind;
  return kind;
}

}  // namespace ckpt
