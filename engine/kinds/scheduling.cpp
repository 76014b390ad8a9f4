#include "engine/kinds/scheduling.h"

#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "engine/base/error.h"
#include "engine/base/hex.h"
#include "engine/base/sched.h"

namespace ckpt {

namespace {

constexpr int kIoprioWhoProcess = 1;
constexpr size_t kMaxCpuBytes = 1024;  // 8192 CPUs, the most that x86-64 kernels are built for

SchedAttr parse_scheduler(const Record& record) {
  const auto words = split_words(record.get("scheduler"));
  if (words.size() != 7) fail(EINVAL, "{}: scheduler needs seven numbers", record.where());
  int64_t v[7];
  for (size_t i = 0; i < 7; ++i) {
    const auto number = parse_i64(words[i]);
    if (!number) fail(EINVAL, "{}: scheduler '{}' is not a number", record.where(), words[i]);
    v[i] = *number;
  }
  SchedAttr attr;
  attr.policy = static_cast<uint32_t>(v[0]);
  attr.flags = static_cast<uint64_t>(v[1]);
  attr.nice = static_cast<int32_t>(v[2]);
  attr.priority = static_cast<uint32_t>(v[3]);
  attr.runtime = static_cast<uint64_t>(v[4]);
  attr.deadline = static_cast<uint64_t>(v[5]);
  attr.period = static_cast<uint64_t>(v[6]);
  return attr;
}

}  // namespace

void capture_scheduling(const CaptureContext&, Remote& thread, const Questions&, Record& out) {
  const pid_t tid = thread.tid();
  SchedAttr attr;
  if (::syscall(SYS_sched_getattr, tid, &attr, sizeof attr, 0) != 0) fail_errno("{}: sched_getattr", tid);
  // sched_getattr tells nice only where it is in force; the value is kept, and back in force with the next policy.
  errno = 0;
  const int nice = getpriority(PRIO_PROCESS, static_cast<id_t>(tid));
  if (errno != 0) fail_errno("{}: getpriority", tid);
  attr.nice = nice;
  out.add("scheduler", fmt::format("{} {} {} {} {} {} {}", attr.policy, attr.flags, attr.nice, attr.priority,
                                   attr.runtime, attr.deadline, attr.period));
  std::byte mask[kMaxCpuBytes] = {};
  const long bytes = ::syscall(SYS_sched_getaffinity, tid, sizeof mask, mask);
  if (bytes < 0) fail_errno("{}: sched_getaffinity", tid);
  out.add("affinity", to_hex(std::span(mask, static_cast<size_t>(bytes))));
  const long priority = ::syscall(SYS_ioprio_get, kIoprioWhoProcess, tid);
  if (priority >= 0) out.add("io_priority", int64_t{priority});
}

void restore_scheduling(const RestoreContext&, Remote& thread, const Record& record) {
  const SchedAttr attr = parse_scheduler(record);
  // By itself: sched_setattr takes nice for SCHED_OTHER and SCHED_BATCH only (__setscheduler_params).
  thread.call("setpriority", SYS_setpriority, PRIO_PROCESS, 0, static_cast<uint64_t>(int64_t{attr.nice}));
  thread.call("sched_setattr", SYS_sched_setattr, 0, thread.put(attr).addr, 0);
  if (const uint64_t io = record.get_u64_or("io_priority", 0); io != 0) {
    thread.call("ioprio_set", SYS_ioprio_set, kIoprioWhoProcess, 0, io);
  }
}

void restore_affinity(const RestoreContext& ctx, Remote& thread) {
  const std::string path = fmt::format("{}threads/{}", ctx.prefix, thread.tid());
  const Record record = Record::parse(ctx.image->read(path), path);
  const auto mask = from_hex(record.get("affinity"));
  if (!mask || mask->empty() || mask->size() > kMaxCpuBytes) fail(EINVAL, "{}: affinity is not a CPU mask", record.where());
  thread.write(thread.scratch(), *mask);
  // EINVAL: none of those CPUs is here. A job from a larger machine had better run on others than not at all.
  const long result = thread.syscall(SYS_sched_setaffinity, 0, mask->size(), thread.scratch().addr);
  if (result < 0 && result != -EINVAL) {
    fail(static_cast<int>(-result), "{}: affinity: {}", record.where(), errno_text(static_cast<int>(-result)));
  }
}

}  // namespace ckpt
