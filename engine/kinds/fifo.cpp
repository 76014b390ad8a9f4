#include "engine/kinds/fifo.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "engine/base/error.h"
#include "engine/kinds/fd_flags.h"
#include "engine/kinds/named_file.h"
#include "engine/kinds/pipe.h"
#include "engine/process/as_caller.h"

namespace ckpt {

namespace {

bool is_hung_up(int fd) {
  struct pollfd p = {fd, 0, 0};
  return poll(&p, 1, 0) == 1 && (p.revents & POLLHUP) != 0;
}

class FifoKind : public DescriptorKind {
 public:
  const char* name() const override { return "fifo"; }

  bool matches(const OpenFd& fd) const override { return S_ISFIFO(fd.st.st_mode) && fd.target.starts_with('/'); }

  std::optional<std::string> refuse(const CaptureContext& ctx, const OpenFd& fd) const override {
    if (fd.st.st_nlink == 0) return fmt::format("a deleted FIFO ({}) cannot be checkpointed", fd.target);
    return refuse_outside_end(ctx, fd);
  }

  void capture(const CaptureContext& ctx, const OpenFd& fd, Record& out) const override {
    capture_name(ctx, fd, out);
    const UniqueFd mine = ctx.take(fd.fd);
    if ((fd.flags & O_ACCMODE) == O_RDONLY && is_hung_up(mine.get())) out.add("hup", 1);
    const std::string object =
        fmt::format("{}{}-{}-{}", kObject, major(fd.st.st_dev), minor(fd.st.st_dev), fd.st.st_ino);
    out.add("object", object);
    if (ctx.first(object)) capture_pipe_content(ctx, mine.get(), object);
  }

  // Who still has the pids may have the FIFO open, and is to see nothing of it.
  bool completed_later() const override { return true; }

  UniqueFd restore(const RestoreContext& ctx, const Record& record) const override {
    const FoundFile found = find_fifo(ctx, record);
    const int mode = open_flags(record) & O_ACCMODE;
    const int wanted = needs_both(ctx, record) || mode == O_RDWR ? R_OK | W_OK : mode == O_RDONLY ? R_OK : W_OK;
    if (syscall(SYS_faccessat2, found.path_fd.get(), "", wanted, AT_EMPTY_PATH | AT_EACCESS) != 0) {
      fail_errno("{}: opening", found.name);
    }
    return placeholder(record.where());
  }

  UniqueFd complete(const RestoreContext& ctx, const Record& record) const override {
    const AsCaller rights(ctx.caller);
    const FoundFile found = find_fifo(ctx, record);
    if (needs_both(ctx, record)) hold(ctx, found, object_name(record, kObject));
    // Without waiting for the other end, whatever the flags are in the end.
    UniqueFd fd = open_found(found, open_flags(record) | O_NONBLOCK);
    set_status_flags(fd.get(), record);
    return fd;
  }

  bool has_owner() const override { return true; }

 private:
  static constexpr std::string_view kObject = "fifo-";

  static FoundFile find_fifo(const RestoreContext& ctx, const Record& record) {
    FoundFile found = find_named(ctx, record);
    if (!S_ISFIFO(found.st.st_mode)) fail(EINVAL, "{}: is not a FIFO", found.name);
    return found;
  }

  // A reader that has never seen a writer is opened alone: with a writer there it would get POLLHUP afterwards,
  // which it did not have (fifo_open in fs/pipe.c).
  static bool needs_both(const RestoreContext& ctx, const Record& record) {
    return (open_flags(record) & O_ACCMODE) != O_RDONLY || record.has("hup") ||
           ctx.image->has("objects/" + object_name(record, kObject) + ".data");
  }

  /// Both ends, open until every descriptor is there: opening a writer then works, and the content stays.
  static void hold(const RestoreContext& ctx, const FoundFile& found, const std::string& object) {
    if (ctx.objects->contains(object)) return;
    UniqueFd both = open_found(found, O_RDWR | O_NONBLOCK);
    int waiting = 0;
    if (ioctl(both.get(), FIONREAD, &waiting) != 0) fail_errno("{}: FIONREAD", found.name);
    if (waiting != 0) fail(EBUSY, "{}: another process uses the FIFO, and data is in it", found.name);
    restore_pipe_content(ctx, both.get(), object);
    ctx.objects->emplace(object, std::move(both));
  }
};

}  // namespace

const DescriptorKind& fifo_kind() {
  static const FifoKind kind;
  return kind;
}

}  // namespace ckpt
