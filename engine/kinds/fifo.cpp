#include "engine/kinds/fifo.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "engine/base/error.h"
#include "engine/kinds/fd_flags.h"
#include "engine/kinds/named_file.h"
#include "engine/kinds/pipe.h"

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
        fmt::format("fifo-{}-{}-{}", major(fd.st.st_dev), minor(fd.st.st_dev), fd.st.st_ino);
    out.add("object", object);
    if (ctx.first(object)) capture_pipe_content(ctx, mine.get(), object);
  }

  UniqueFd restore(const RestoreContext& ctx, const Record& record) const override {
    const FoundFile found = find_named(ctx, record);
    if (!S_ISFIFO(found.st.st_mode)) fail(EINVAL, "{}: is not a FIFO", found.name);
    const std::string object = object_name(record, "fifo-");
    const int flags = open_flags(record);
    const bool reader = (flags & O_ACCMODE) == O_RDONLY;
    // A reader that has never seen a writer is opened alone: with a writer there it would get POLLHUP afterwards,
    // which it did not have (fifo_open in fs/pipe.c).
    if (!reader || record.has("hup") || ctx.image->has("objects/" + object + ".data")) hold(ctx, found, object);
    // Without waiting for the other end, whatever the flags are in the end.
    UniqueFd fd = open_found(found, flags | O_NONBLOCK);
    set_status_flags(fd.get(), record);
    return fd;
  }

  bool has_owner() const override { return true; }

 private:
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
