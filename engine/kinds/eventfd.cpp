#include "engine/kinds/eventfd.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <filesystem>

#include "engine/base/error.h"
#include "engine/kinds/fd_flags.h"
#include "engine/kinds/open_links.h"
#include "engine/process/procfs.h"

namespace ckpt {

namespace fs = std::filesystem;

namespace {

void add_count(int fd, uint64_t count, const std::string& where) {
  if (count != 0 && ::write(fd, &count, sizeof count) != sizeof count) {
    fail_errno("{}: setting the counter {}", where, count);
  }
}

bool ask_semaphore(const CaptureContext& ctx, const OpenFd& fd, uint64_t count) {
  const std::string id = fd.info("eventfd-id").value_or("");
  if (const pid_t holder = running_holder(ctx.pid, id); holder != 0) {
    fail(EOPNOTSUPP,
         "{}: fd {}: process {} has the same eventfd, and this kernel (before Linux 6.5) does not tell whether it is a "
         "semaphore",
         ctx.pid, fd.fd, holder);
  }
  return probe_semaphore(ctx.take(fd.fd).get(), count);
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
    const bool is_semaphore = semaphore ? *semaphore != "0" : ask_semaphore(ctx, fd, *count);
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

pid_t running_holder(pid_t pid, const std::string& id) {
  const std::string line = "eventfd-id: " + id + "\n";
  const auto holds = [&](const fs::path& process) {
    std::error_code gone;
    for (const auto& link : fs::directory_iterator(process / "fd", gone)) {
      if (fs::read_symlink(link.path(), gone) != "anon_inode:[eventfd]") continue;
      try {
        if (read_file((process / "fdinfo" / link.path().filename()).string()).find(line) != std::string::npos) return true;
      } catch (const Error&) {
        continue;  // closed meanwhile
      }
    }
    return false;
  };
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/proc", error)) {
    const auto other = parse_u64(entry.path().filename().string());
    if (!other || static_cast<pid_t>(*other) == pid || shares_our_files(static_cast<pid_t>(*other))) continue;
    try {
      // One that we hold still as well is of the same checkpoint.
      if (holds(entry.path()) && read_status(static_cast<pid_t>(*other)).tracer != ::getpid()) {
        return static_cast<pid_t>(*other);
      }
    } catch (const Error&) {
      continue;  // it has ended
    }
  }
  return 0;
}

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
