#include "engine/kinds/cpu_features.h"

#include <sys/prctl.h>
#include <sys/syscall.h>

#include "engine/base/error.h"
#include "engine/process/proc_status.h"
#include "engine/process/procfs.h"

// Beyond Debian 12's headers: linux/prctl.h, asm/prctl.h.
#ifndef PR_SCHED_CORE
#define PR_SCHED_CORE 62
#define PR_SCHED_CORE_GET 0
#endif

namespace ckpt {

namespace {

constexpr uint64_t kGetCpuid = 0x1011, kSetCpuid = 0x1012;         // ARCH_GET_CPUID, ARCH_SET_CPUID
constexpr uint64_t kGetSupported = 0x1021;                         // ARCH_GET_XCOMP_SUPP
constexpr uint64_t kGetPermitted = 0x1022, kRequest = 0x1023;      // ARCH_GET_XCOMP_PERM, ARCH_REQ_XCOMP_PERM
constexpr unsigned kDynamicFeatures[] = {18};                      // XFEATURE_MASK_USER_DYNAMIC: the tiles of AMX
constexpr uint64_t kIoFlusher = 0x00180000;                        // PF_MEMALLOC_NOIO | PF_LOCAL_THROTTLE

/// Dynamic features of this kernel and CPU. Asked once: most machines have none.
uint64_t dynamic_features() {
  static const uint64_t features = [] {
    uint64_t supported = 0, dynamic = 0;
    // EINVAL: before Linux 5.16.
    if (::syscall(SYS_arch_prctl, kGetSupported, &supported) != 0) supported = 0;
    for (const unsigned bit : kDynamicFeatures) dynamic |= supported & uint64_t{1} << bit;
    return dynamic;
  }();
  return features;
}

/// Whether CPUID can be denied here: allowing it, as it is, tells.
bool can_deny_cpuid() {
  static const bool can = ::syscall(SYS_arch_prctl, kSetCpuid, 1) == 0;
  return can;
}

/// Misfeatures that a program may choose about; the same for every process of a machine.
const std::vector<uint64_t>& controllable_misfeatures() {
  static const std::vector<uint64_t> controllable = [] {
    std::vector<uint64_t> which;
    for (const uint64_t one : {PR_SPEC_STORE_BYPASS, PR_SPEC_INDIRECT_BRANCH, PR_SPEC_L1D_FLUSH}) {
      const int state = ::prctl(PR_GET_SPECULATION_CTRL, one, 0, 0, 0);
      if (state > 0 && (state & PR_SPEC_PRCTL) != 0) which.push_back(one);
    }
    return which;
  }();
  return controllable;
}

void restore_speculation(Remote& thread, const Record& record, const std::string& line) {
  const auto words = record.numbers(line, 2);
  const long now = thread.syscall(SYS_prctl, PR_GET_SPECULATION_CTRL, words[0], 0, 0, 0);
  if (now == PR_SPEC_NOT_AFFECTED) return;
  if (now > 0 && (static_cast<uint64_t>(now) & ~uint64_t{PR_SPEC_PRCTL}) == words[1]) return;
  const long result = thread.syscall(SYS_prctl, PR_SET_SPECULATION_CTRL, words[0], words[1], 0, 0);
  if (result >= 0) return;
  fail(ENOEXEC, "{}: speculation {} cannot be given the state {} on this machine: {}", record.where(), words[0],
       words[1], errno_text(static_cast<int>(-result)));
}

constexpr Question kPermission{
    "arch_prctl(ARCH_GET_XCOMP_PERM)", SYS_arch_prctl, {kGetPermitted, Question::kAnswer}, sizeof(uint64_t)};
constexpr Question kTsc{"prctl(PR_GET_TSC)", SYS_prctl, {PR_GET_TSC, Question::kAnswer}, sizeof(int)};
constexpr Question kCpuid{"arch_prctl(ARCH_GET_CPUID)", SYS_arch_prctl, {kGetCpuid}};
Question speculation(uint64_t which) {
  return {"prctl(PR_GET_SPECULATION_CTRL)", SYS_prctl, {PR_GET_SPECULATION_CTRL, which}};
}

/// The state where a program has chosen it and it protects: flushing the cache does when on, the others when off.
uint64_t chosen_protection(const Questions& answers, uint64_t which) {
  const long state = answers.result(speculation(which));
  if (state < 0 || (state & PR_SPEC_PRCTL) == 0) return 0;
  const bool enabled = (state & PR_SPEC_ENABLE) != 0;
  return enabled == (which == PR_SPEC_L1D_FLUSH) ? static_cast<uint64_t>(state) & ~uint64_t{PR_SPEC_PRCTL} : 0;
}

}  // namespace

void refuse_cpu_features(pid_t pid, int proc_dir) {
  for (const pid_t tid : list_tasks(proc_dir)) {
    // EINVAL, ENODEV: this kernel or CPU has no core scheduling. 0: PIDTYPE_PID, the one thread.
    uint64_t cookie = 0;
    if (::prctl(PR_SCHED_CORE, PR_SCHED_CORE_GET, tid, 0, &cookie) == 0 && cookie != 0) {
      fail(EOPNOTSUPP, "{}: thread {} has a core scheduling cookie, which is not supported", pid, tid);
    }
  }
}

void ask_cpu_features(Questions& questions) {
  if (dynamic_features() != 0) questions.ask(kPermission);
  questions.ask(kTsc);
  if (can_deny_cpuid()) questions.ask(kCpuid);
  for (const uint64_t which : controllable_misfeatures()) questions.ask(speculation(which));
}

void capture_cpu_features(const CaptureContext& ctx, Remote& thread, const Questions& answers, Record& out) {
  if (dynamic_features() != 0) {
    const uint64_t permitted = answers.answer<uint64_t>(kPermission) & dynamic_features();
    for (const unsigned bit : kDynamicFeatures) {
      if ((permitted >> bit & 1) != 0) out.add("cpu_permission", bit);
    }
  }
  if (answers.answer<int>(kTsc) == PR_TSC_SIGSEGV) out.add("tsc", 0);
  if (can_deny_cpuid() && answers.result(kCpuid) == 0) out.add("cpuid", 0);
  for (const uint64_t which : controllable_misfeatures()) {
    if (const uint64_t state = chosen_protection(answers, which)) out.add("speculation", fmt::format("{} {}", which, state));
  }
  // Not from PR_GET_IO_FLUSHER, which wants CAP_SYS_RESOURCE.
  if ((task_flags(ctx.proc_dir, thread.tid()) & kIoFlusher) == kIoFlusher) out.add("io_flusher", 1);
}

void restore_cpu_features(const RestoreContext& ctx, Remote& thread, const Record& record) {
  for (const std::string& line : record.all("cpu_permission")) {
    const uint64_t bit = record.numbers(line, 1)[0];
    if (const long r = thread.syscall(SYS_arch_prctl, kRequest, bit); r < 0) {
      fail(ENOEXEC, "{}: the use of XSAVE feature {} is not to be had here: {}", record.where(), bit,
           errno_text(static_cast<int>(-r)));
    }
  }
  if (record.get_u64_or("tsc", 1) == 0) thread.call("prctl(PR_SET_TSC)", SYS_prctl, PR_SET_TSC, PR_TSC_SIGSEGV, 0, 0, 0);
  if (record.get_u64_or("cpuid", 1) == 0 && thread.syscall(SYS_arch_prctl, kSetCpuid, 0) != 0) {
    fail(ENOEXEC, "{}: the instruction CPUID cannot be denied on this CPU", record.where());
  }
  for (const std::string& line : record.all("speculation")) restore_speculation(thread, record, line);
  if (record.get_u64_or("io_flusher", 0) != 0) {
    if (!ctx.caller.privileged()) fail(EPERM, "{}: only root may resume an I/O flusher", record.where());
    thread.call("prctl(PR_SET_IO_FLUSHER)", SYS_prctl, PR_SET_IO_FLUSHER, 1, 0, 0, 0);
  }
}

}  // namespace ckpt
