#include "engine/kinds/timerfd.h"

#include <fcntl.h>
#include <linux/ioctl.h>
#include <sys/ioctl.h>
#include <sys/timerfd.h>
#include <time.h>

#include "engine/base/error.h"
#include "engine/kinds/fd_flags.h"

namespace ckpt {

namespace {

constexpr uint64_t kSecond = 1'000'000'000;
constexpr uint64_t kKnownFlags = TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET;
constexpr unsigned long kSetTicks = _IOW('T', 0, uint64_t);  // TFD_IOC_SET_TICKS, include/uapi/linux/timerfd.h

uint64_t to_ns(const timespec& t) { return static_cast<uint64_t>(t.tv_sec) * kSecond + static_cast<uint64_t>(t.tv_nsec); }

timespec to_timespec(uint64_t ns) {
  return {static_cast<time_t>(ns / kSecond), static_cast<long>(ns % kSecond)};
}

uint64_t clock_now(int clockid) {
  timespec now = {};
  clock_gettime(clockid, &now);
  return to_ns(now);
}

bool is_real_time(uint64_t clockid) { return clockid == CLOCK_REALTIME || clockid == CLOCK_REALTIME_ALARM; }

class TimerfdKind : public DescriptorKind {
 public:
  const char* name() const override { return "timerfd"; }
  bool matches(const OpenFd& fd) const override { return fd.target == "anon_inode:[timerfd]"; }

  void capture(const CaptureContext& ctx, const OpenFd& fd, Record& out) const override {
    const UniqueFd mine = ctx.take(fd.fd);
    // timerfd_gettime moves the periods that have passed into the ticks, where fdinfo leaves them out.
    itimerspec its = {};
    if (timerfd_gettime(mine.get(), &its) != 0) fail_errno("{}: fd {}: timerfd_gettime", ctx.pid, fd.fd);
    OpenFd now = fd;
    now.fdinfo = read_file(fmt::format("/proc/self/fdinfo/{}", mine.get()));
    const auto clockid = parse_u64(now.info("clockid").value_or(""));
    const auto ticks = parse_u64(now.info("ticks").value_or(""));
    const auto flags_text = now.info("settime flags");  // octal: "01"
    if (!clockid || !ticks || !flags_text) {
      fail(EIO, "{}: fd {}: the timer's state cannot be read from fdinfo", ctx.pid, fd.fd);
    }
    const uint64_t flags = std::stoul(*flags_text, nullptr, 8);
    const uint64_t left = to_ns(its.it_value);
    out.add("clockid", *clockid);
    out.add_hex("settime_flags", flags);
    if (left != 0 && (flags & TFD_TIMER_ABSTIME) != 0 && is_real_time(*clockid)) {
      out.add("expires_ns", clock_now(CLOCK_REALTIME) + left);
    } else {
      out.add("value_ns", left);
    }
    out.add("interval_ns", to_ns(its.it_interval));
    out.add("ticks", *ticks);
  }

  UniqueFd restore(const RestoreContext&, const Record& record) const override {
    const auto clockid = static_cast<int>(record.get_u64("clockid", 64));
    UniqueFd fd(timerfd_create(clockid, TFD_CLOEXEC | TFD_NONBLOCK));
    if (!fd) fail_errno("{}: timerfd_create with clock {}", record.where(), clockid);
    arm(fd.get(), clockid, record);
    set_status_flags(fd.get(), record);
    return fd;
  }

 private:
  static void arm(int fd, int clockid, const Record& record) {
    const uint64_t ticks = record.get_u64("ticks");
    const uint64_t flags = record.get_u64("settime_flags") & kKnownFlags;
    const bool absolute = (flags & TFD_TIMER_ABSTIME) != 0;
    itimerspec its = {};
    its.it_interval = to_timespec(record.get_u64("interval_ns", INT64_MAX));
    if (record.has("expires_ns")) {
      its.it_value = to_timespec(record.get_u64("expires_ns", INT64_MAX));
    } else {
      uint64_t left = record.get_u64("value_ns", INT64_MAX / 2);
      if (left != 0 && absolute) left += clock_now(clockid);
      its.it_value = to_timespec(left);
    }
    if (timerfd_settime(fd, static_cast<int>(flags), &its, nullptr) != 0) {
      fail_errno("{}: timerfd_settime", record.where());
    }
    if (ticks == 0 || ioctl(fd, kSetTicks, &ticks) == 0) return;
    // A kernel without CONFIG_CHECKPOINT_RESTORE: let it expire at once, which is one tick of those that waited.
    its.it_value = to_timespec(1);
    if (timerfd_settime(fd, 0, &its, nullptr) != 0) fail_errno("{}: timerfd_settime", record.where());
  }
};

}  // namespace

const DescriptorKind& timerfd_kind() {
  static const TimerfdKind kind;
  return kind;
}

}  // namespace ckpt
