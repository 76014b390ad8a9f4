#include "engine/kinds/eventfd.h"

#include <fcntl.h>
#include <sys/eventfd.h>

#include "engine/base/error.h"
#include "engine/kinds/fd_flags.h"

namespace ckpt {

namespace {

void add_count(int fd, uint64_t count, const std::string& where) {
  if (count != 0 && ::write(fd, &count, sizeof count) != sizeof count) {
    fail_errno("{}: setting the counter {}", where, count);
  }
}

class EventfdKind : public DescriptorKind {
 public:
  const char* name() const override { return "eventfd"; }
  bool matches(const OpenFd& fd) const override { return fd.target == "anon_inode:[eventfd]"; }

  void capture(const CaptureContext& ctx, const OpenFd& fd, Record& out) const override {
    // Hexadecimal without 0x: eventfd_show_fdinfo in fs/eventfd.c.
    const auto count = parse_u64("0x" + fd.info("eventfd-count").value_or(""));
    if (!count) fail(EIO, "{}: fd {}: the counter of the eventfd cannot be read", ctx.pid, fd.fd);
    out.add("count", *count);
    const auto semaphore = fd.info("eventfd-semaphore");
    const bool is_semaphore = semaphore ? *semaphore != "0" : probe_semaphore(ctx.take(fd.fd).get(), *count);
    if (is_semaphore) out.add("semaphore", 1);
  }

  UniqueFd restore(const RestoreContext&, const Record& record) const override {
    const bool semaphore = record.get_u64_or("semaphore", 0) != 0;
    UniqueFd fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | (semaphore ? EFD_SEMAPHORE : 0)));
    if (!fd) fail_errno("{}: eventfd", record.where());
    add_count(fd.get(), record.get_u64("count", UINT64_MAX - 1), record.where());
    set_status_flags(fd.get(), record);
    return fd;
  }
};

}  // namespace

bool probe_semaphore(int eventfd, uint64_t count) {
  // A semaphore hands out 1 where a counter hands out everything: with 2 or more the two differ.
  const uint64_t added = count >= 2 ? 0 : 2 - count;
  add_count(eventfd, added, "eventfd");
  uint64_t got = 0;
  if (::read(eventfd, &got, sizeof got) != sizeof got) fail_errno("eventfd: read");
  const bool semaphore = got == 1;
  // What is in the counter now, against what it was.
  uint64_t left = count + added - got;
  if (left <= count) {
    add_count(eventfd, count - left, "eventfd");
    return semaphore;
  }
  for (; left > count; --left) {
    if (::read(eventfd, &got, sizeof got) != sizeof got) fail_errno("eventfd: read");
  }
  return semaphore;
}

const DescriptorKind& eventfd_kind() {
  static const EventfdKind kind;
  return kind;
}

}  // namespace ckpt
