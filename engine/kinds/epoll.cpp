#include "engine/kinds/epoll.h"

#include <fcntl.h>
#include <linux/kcmp.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "engine/base/error.h"
#include "engine/kinds/fd_flags.h"

namespace ckpt {

namespace {

struct Watch {
  int fd = -1;
  uint32_t events = 0;
  uint64_t data = 0;
};

/// How its waiters poll network devices: ioctl_eventpoll(2), Linux 6.9.
struct BusyPolling {
  uint32_t microseconds = 0;
  uint16_t budget = 0;
  uint8_t prefers = 0, padding = 0;
  bool operator==(const BusyPolling&) const = default;
};
constexpr unsigned long kSetBusyPolling = _IOW(0x8A, 0x01, BusyPolling);   // EPIOCSPARAMS
constexpr unsigned long kGetBusyPolling = _IOR(0x8A, 0x02, BusyPolling);   // EPIOCGPARAMS

void capture_busy_polling(int epoll, Record& out) {
  BusyPolling now;
  if (ioctl(epoll, kGetBusyPolling, &now) != 0 || now == BusyPolling{}) return;
  out.add("busy_poll", fmt::format("{} {} {}", now.microseconds, now.budget, now.prefers));
}

void restore_busy_polling(int epoll, const Record& record) {
  if (!record.has("busy_poll")) return;
  const auto numbers = record.get_numbers("busy_poll", 3);
  if (numbers[0] > UINT32_MAX || numbers[1] > UINT16_MAX || numbers[2] > 1) {
    fail(EINVAL, "{}: busy_poll is malformed", record.where());
  }
  const BusyPolling wanted{static_cast<uint32_t>(numbers[0]), static_cast<uint16_t>(numbers[1]),
                           static_cast<uint8_t>(numbers[2])};
  if (ioctl(epoll, kSetBusyPolling, &wanted) != 0) fail_errno("{}: busy_poll (EPIOCSPARAMS)", record.where());
}

/// "       7 events:       19 data:                7  pos:0 ino:33a6 sdev:f", ep_show_fdinfo in fs/eventpoll.c.
std::optional<Watch> parse_fdinfo(const std::string& line) {
  const auto words = split_words(line);
  if (words.size() < 5 || words[1] != "events:" || words[3] != "data:") return std::nullopt;
  const auto fd = parse_u64(words[0]);
  const auto events = parse_u64("0x" + words[2]);
  const auto data = parse_u64("0x" + words[4]);
  if (!fd || *fd > INT32_MAX || !events || *events > UINT32_MAX || !data) return std::nullopt;
  return Watch{static_cast<int>(*fd), static_cast<uint32_t>(*events), *data};
}

Watch parse_watch(const std::string& text, const std::string& where) {
  const auto words = split_words(text);
  const auto fd = words.size() == 3 ? parse_u64(words[0]) : std::nullopt;
  const auto events = fd ? parse_u64(words[1]) : std::nullopt;
  const auto data = fd ? parse_u64(words[2]) : std::nullopt;
  if (!fd || *fd > INT32_MAX || !events || *events > UINT32_MAX || !data) {
    fail(EINVAL, "{}: the watch '{}' is malformed", where, escape(text));
  }
  return {static_cast<int>(*fd), static_cast<uint32_t>(*events), *data};
}

/// Whether descriptor `watch.fd` is still the file that is watched: its number may have been closed, or used again,
/// while another descriptor keeps the file and so the watch. `nth` counts the watches of one number.
bool is_same_file(pid_t pid, int epoll_fd, const Watch& watch, unsigned nth) {
  kcmp_epoll_slot slot = {};
  slot.efd = static_cast<uint32_t>(epoll_fd);
  slot.tfd = static_cast<uint32_t>(watch.fd);
  slot.toff = nth;
  return syscall(SYS_kcmp, pid, pid, KCMP_EPOLL_TFD, watch.fd, &slot) == 0;
}

class EpollKind : public DescriptorKind {
 public:
  const char* name() const override { return "epoll"; }
  bool matches(const OpenFd& fd) const override { return fd.target == "anon_inode:[eventpoll]"; }
  bool may_be_queued() const override { return false; }

  std::optional<std::string> refuse(const CaptureContext& ctx, const OpenFd& fd) const override {
    std::map<int, unsigned> seen;
    for (const std::string& line : fd.info_lines("tfd")) {
      const auto watch = parse_fdinfo(line);
      if (!watch) return fmt::format("an epoll instance whose watch '{}' is not understood cannot be checkpointed", line);
      if (is_same_file(ctx.pid, fd.fd, *watch, seen[watch->fd]++)) continue;
      return fmt::format("an epoll instance that watches a file whose descriptor ({}) was closed cannot be "
                         "checkpointed", watch->fd);
    }
    return std::nullopt;
  }

  void capture(const CaptureContext& ctx, const OpenFd& fd, Record& out) const override {
    capture_busy_polling(ctx.take(fd).get(), out);
    for (const std::string& line : fd.info_lines("tfd")) {
      const auto watch = parse_fdinfo(line);
      if (watch) out.add("watch", fmt::format("{} {:#x} {:#x}", watch->fd, watch->events, watch->data));
    }
  }

  UniqueFd restore(const RestoreContext& ctx, const Record& record) const override {
    for (const std::string& text : record.all("watch")) {
      const Watch watch = parse_watch(text, record.where());
      if (!ctx.image->has(fmt::format("{}fds/{}", ctx.prefix, watch.fd))) {
        fail(EINVAL, "{}: watches {}, which is not in the image", record.where(), watch.fd);
      }
    }
    UniqueFd fd(epoll_create1(EPOLL_CLOEXEC));
    if (!fd) fail_errno("{}: epoll_create1", record.where());
    set_status_flags(fd.get(), record);
    restore_busy_polling(fd.get(), record);
    return fd;
  }

  void finish(const RestoreContext&, const Record& record, int fd, Remote& leader) const override {
    std::vector<Watch> watches;
    for (const std::string& text : record.all("watch")) watches.push_back(parse_watch(text, record.where()));
    // First those that have had their one shot: while they are alone, only their own events can come.
    for (const Watch& watch : watches) {
      if (!is_spent(watch)) continue;
      Watch armed = watch;
      armed.events |= EPOLLIN | EPOLLOUT;
      control(record, fd, EPOLL_CTL_ADD, armed, leader);
      // Delivery disarms it wholly. Where nothing is ready EPOLLERR and EPOLLHUP stay armed: epoll_ctl always adds them.
      if (leader.syscall(SYS_epoll_wait, static_cast<uint64_t>(fd), leader.scratch().addr, 1, 0) != 1) {
        control(record, fd, EPOLL_CTL_MOD, watch, leader);
      }
    }
    for (const Watch& watch : watches) {
      if (!is_spent(watch)) control(record, fd, EPOLL_CTL_ADD, watch, leader);
    }
  }

 private:
  static bool is_spent(const Watch& watch) {
    constexpr uint32_t kPrivateBits = EPOLLWAKEUP | EPOLLONESHOT | EPOLLET | EPOLLEXCLUSIVE;
    return (watch.events & EPOLLONESHOT) != 0 && (watch.events & ~kPrivateBits) == 0;
  }

  static void control(const Record& record, int fd, uint64_t operation, const Watch& watch, Remote& leader) {
    epoll_event event = {};
    event.events = watch.events;
    event.data.u64 = watch.data;
    const RemotePtr at = leader.put(event);
    const long result = leader.syscall(SYS_epoll_ctl, static_cast<uint64_t>(fd), operation,
                                       static_cast<uint64_t>(watch.fd), at.addr);
    if (result >= 0) return;
    const int err = static_cast<int>(-result);
    fail(err, "{}: watching descriptor {}: {}", record.where(), watch.fd, errno_text(err));
  }
};

}  // namespace

const DescriptorKind& epoll_kind() {
  static const EpollKind kind;
  return kind;
}

}  // namespace ckpt
