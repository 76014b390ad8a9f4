#include "engine/kinds/timers.h"

#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include <algorithm>
#include <csignal>
#include <ctime>

#include "engine/base/error.h"

#ifndef PR_TIMER_CREATE_RESTORE_IDS
#define PR_TIMER_CREATE_RESTORE_IDS 77  // Linux 6.16, include/uapi/linux/prctl.h
#endif

namespace ckpt {

namespace {

constexpr uint64_t kNsPerSecond = 1'000'000'000;
constexpr int kMaxTimerId = 1 << 20;  // older kernels reach an id by counting up to it

struct PosixTimer {
  int id = 0;
  int clock = 0;
  std::string notify;
  int signo = 0;
  uint64_t sigval = 0;
  int tid = 0;
  uint64_t value_ns = 0;
  uint64_t interval_ns = 0;
};

uint64_t to_ns(const timespec& t) {
  return static_cast<uint64_t>(t.tv_sec) * kNsPerSecond + static_cast<uint64_t>(t.tv_nsec);
}

timespec from_ns(uint64_t ns) {
  return {static_cast<time_t>(ns / kNsPerSecond), static_cast<long>(ns % kNsPerSecond)};
}

// /proc/PID/timers (fs/proc/base.c, show_timer): four lines a timer:
//   ID: 1
//   signal: 60/00007fff86e452a8
//   notify: signal/tid.2634
//   ClockID: 0
std::vector<PosixTimer> list_posix_timers(const CaptureContext& ctx) {
  std::vector<PosixTimer> timers;
  const std::string text = read_file(ctx.proc_dir, "timers");
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string line = text.substr(at, end - at);
    at = end + 1;
    char kind[16] = "";
    char target[8] = "";
    int number = 0;
    unsigned long long value = 0;
    if (sscanf(line.c_str(), "ID: %d", &number) == 1) {
      timers.emplace_back().id = number;
    } else if (timers.empty()) {
      continue;
    } else if (sscanf(line.c_str(), "signal: %d/%llx", &number, &value) == 2) {
      timers.back().signo = number;
      timers.back().sigval = value;
    } else if (sscanf(line.c_str(), "notify: %15[a-z]/%7[a-z].%d", kind, target, &number) == 3) {
      const bool to_thread = std::string_view(target) == "tid";
      timers.back().notify = to_thread && std::string_view(kind) == "signal" ? "thread" : kind;
      timers.back().tid = to_thread ? number : 0;
    } else if (sscanf(line.c_str(), "ClockID: %d", &number) == 1) {
      timers.back().clock = number;
    }
  }
  return timers;
}

std::string format_timer(const PosixTimer& t) {
  return fmt::format("{} {} {} {} {:#x} {} {} {}", t.id, t.clock, t.notify, t.signo, t.sigval, t.tid, t.value_ns,
                     t.interval_ns);
}

PosixTimer parse_timer(const std::string& text, const std::string& where) {
  const auto words = split_words(text);
  if (words.size() != 8) fail(EINVAL, "{}: '{}' is not a POSIX timer", where, text);
  const auto number = [&](size_t i, int64_t low, int64_t high) {
    const auto v = parse_i64(words[i]);
    if (!v || *v < low || *v > high) fail(EINVAL, "{}: '{}' in '{}' is out of range", where, words[i], text);
    return static_cast<int>(*v);
  };
  const auto wide = [&](size_t i) {
    const auto v = parse_u64(words[i]);
    if (!v) fail(EINVAL, "{}: '{}' in '{}' is not a number", where, words[i], text);
    return *v;
  };
  PosixTimer t{number(0, 0, kMaxTimerId), number(1, INT32_MIN, INT32_MAX), words[2],  number(3, 0, 64), wide(4),
               number(5, 0, INT32_MAX),   wide(6),                         wide(7)};
  if (t.notify != "signal" && t.notify != "thread" && t.notify != "none") {
    fail(EINVAL, "{}: '{}' is not a way to notify", where, t.notify);
  }
  return t;
}

// Creates a timer under its old id. Kernels without PR_TIMER_CREATE_RESTORE_IDS hand ids out in ascending order for
// each process, so ids are taken and given back until the wanted one comes.
void create_timer(Remote& leader, const PosixTimer& t, bool restore_ids) {
  struct {
    int32_t id;
    int32_t pad;
  } slot = {};
  sigevent event = {};
  event.sigev_signo = t.signo;
  event.sigev_value.sival_ptr = reinterpret_cast<void*>(t.sigval);
  event.sigev_notify = t.notify == "none" ? SIGEV_NONE : t.notify == "thread" ? SIGEV_THREAD_ID : SIGEV_SIGNAL;
  event._sigev_un._tid = t.tid;
  const RemotePtr event_at = leader.put(event, 64);
  for (int tries = 0; tries <= kMaxTimerId; ++tries) {
    slot.id = t.id;
    const RemotePtr slot_at = leader.put(slot, 0);
    leader.call("timer_create", SYS_timer_create, static_cast<uint64_t>(static_cast<int64_t>(t.clock)), event_at.addr,
                slot_at.addr);
    const int got = leader.get<int32_t>(slot_at);
    if (got == t.id) return;
    leader.call("timer_delete", SYS_timer_delete, static_cast<uint64_t>(got));
    if (restore_ids || got > t.id) break;
  }
  fail(EBUSY, "{}: POSIX timer {} cannot have its old id", leader.pid(), t.id);
}

void restore_posix_timers(Remote& leader, const Record& record) {
  const auto texts = record.all("posix");
  if (texts.empty()) return;
  const bool restore_ids = leader.syscall(SYS_prctl, PR_TIMER_CREATE_RESTORE_IDS, 1, 0, 0, 0) == 0;
  std::vector<PosixTimer> timers;
  for (const std::string& text : texts) timers.push_back(parse_timer(text, record.where()));
  // /proc lists them in no order that all kernels share (6.1: the newest first), and ids can only be counted up.
  std::ranges::sort(timers, {}, &PosixTimer::id);
  for (const PosixTimer& t : timers) create_timer(leader, t, restore_ids);
  if (restore_ids) leader.call("prctl", SYS_prctl, PR_TIMER_CREATE_RESTORE_IDS, 0, 0, 0, 0);
  for (const PosixTimer& t : timers) {
    if (t.value_ns == 0) continue;
    const itimerspec spec = {from_ns(t.interval_ns), from_ns(t.value_ns)};
    leader.call("timer_settime", SYS_timer_settime, static_cast<uint64_t>(t.id), 0, leader.put(spec).addr, 0);
  }
}

constexpr std::array kIntervalTimers = {ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF};

Question interval_timer(int which) {
  return {"getitimer", SYS_getitimer, {static_cast<uint64_t>(which), Question::kAnswer}, sizeof(itimerval)};
}
Question posix_timer(int id) {
  return {"timer_gettime", SYS_timer_gettime, {static_cast<uint64_t>(id), Question::kAnswer}, sizeof(itimerspec)};
}

}  // namespace

void ask_timers(const CaptureContext& ctx, Questions& questions) {
  for (const int which : kIntervalTimers) questions.ask(interval_timer(which));
  for (const PosixTimer& t : list_posix_timers(ctx)) questions.ask(posix_timer(t.id));
}

void capture_timers(const CaptureContext& ctx, const Questions& answers) {
  Record out;
  for (const int which : kIntervalTimers) {
    const auto timer = answers.answer<itimerval>(interval_timer(which));
    const auto us = [](const timeval& t) { return t.tv_sec * 1'000'000 + t.tv_usec; };
    const int64_t interval = us(timer.it_interval);
    // ITIMER_REAL stands still between its signal and the delivery of it (it_real_fn in kernel/time/itimer.c): no time
    // is left then, but the timer goes on ticking.
    const int64_t left = us(timer.it_value) != 0 ? us(timer.it_value) : interval;
    if (left != 0) out.add("interval", fmt::format("{} {} {}", which, left, interval));
  }
  for (PosixTimer& t : list_posix_timers(ctx)) {
    const auto spec = answers.answer<itimerspec>(posix_timer(t.id));
    t.value_ns = to_ns(spec.it_value);
    t.interval_ns = to_ns(spec.it_interval);
    out.add("posix", format_timer(t));
  }
  ctx.image->put(ctx.prefix + "timers", out.text());
}

void restore_timers(const RestoreContext& ctx, Remote& leader) {
  const std::string path = ctx.prefix + "timers";
  const Record record = Record::parse(ctx.image->read(path), path);
  restore_posix_timers(leader, record);
  for (const std::string& text : record.all("interval")) {
    const auto numbers = record.numbers(text, 3);
    if (numbers[0] > ITIMER_PROF || numbers[1] > INT64_MAX || numbers[2] > INT64_MAX) {
      fail(EINVAL, "{}: '{}' is not an interval timer", path, text);
    }
    const auto split = [](uint64_t us) {
      return timeval{static_cast<time_t>(us / 1'000'000), static_cast<suseconds_t>(us % 1'000'000)};
    };
    const itimerval timer = {split(numbers[2]), split(numbers[1])};
    leader.call("setitimer", SYS_setitimer, numbers[0], leader.put(timer).addr, 0);
  }
}

}  // namespace ckpt
