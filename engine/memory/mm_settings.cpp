#include "engine/memory/mm_settings.h"

#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>

#include "engine/base/error.h"
#include "engine/memory/kernel_abi.h"

namespace ckpt {
namespace {

/// The commands that register, and those that succeed for who is registered only.
struct Registration {
  int registers, uses;
};
constexpr std::array<Registration, 3> kPrivate = {{
    {MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, MEMBARRIER_CMD_PRIVATE_EXPEDITED},
    {MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE, MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE},
    {MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ, MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ},
}};
constexpr uint64_t kAllRegistrations =
    MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED | MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED |
    MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE | MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ;
constexpr uint64_t kMostSlots = 1 << 20;

constexpr Question kRegistrations{"membarrier", SYS_membarrier, {abi::kMembarrierGetRegistrations}};
Question membarrier(int command) { return {"membarrier", SYS_membarrier, {static_cast<uint64_t>(command)}}; }

/// Before Linux 6.3 only a try tells; of who is registered for barriers of others it tells nothing.
bool kernel_tells_registrations() {
  static const bool tells = ::syscall(SYS_membarrier, abi::kMembarrierGetRegistrations, 0, 0) >= 0;
  return tells;
}

/// The size of the table; of none (its first entry does not matter) 0.
constexpr Question kLdt{"modify_ldt", SYS_modify_ldt, {0, Question::kAnswer, sizeof(uint64_t)}, sizeof(uint64_t)};
constexpr Question kFutexHash{"prctl(PR_FUTEX_HASH)", SYS_prctl, {abi::kPrFutexHash, abi::kFutexHashGetSlots}};

}  // namespace

void ask_mm_settings(Questions& questions) {
  if (kernel_tells_registrations()) {
    questions.ask(kRegistrations);
  } else {
    for (const Registration& one : kPrivate) questions.ask(membarrier(one.uses));
  }
  questions.ask(kLdt);
  questions.ask(kFutexHash);
}

void capture_mm_settings(const CaptureContext& ctx, const Questions& answers, Record& out) {
  if (answers.result(kLdt) > 0) {
    fail(EOPNOTSUPP, "{}: it has a local descriptor table (modify_ldt), which cannot be checkpointed", ctx.pid);
  }
  uint64_t registered = 0;
  if (kernel_tells_registrations()) {
    registered = static_cast<uint64_t>(std::max(answers.result(kRegistrations), 0L));
  } else {
    for (const Registration& one : kPrivate) {
      if (answers.result(membarrier(one.uses)) == 0) registered |= static_cast<uint64_t>(one.registers);
    }
  }
  if (registered != 0) out.add_hex("membarrier", registered);
  if (const long slots = answers.result(kFutexHash); slots > 0) out.add("futex_hash", int64_t{slots});
}

MmSettings parse_mm_settings(const Record& mm) {
  MmSettings settings;
  settings.membarrier = mm.get_u64_or("membarrier", 0);
  if ((settings.membarrier & ~kAllRegistrations) != 0) {
    fail(EINVAL, "{}: membarrier {:#x} is no set of registrations", mm.where(), settings.membarrier);
  }
  if (mm.has("futex_hash")) settings.futex_hash = mm.get_u64("futex_hash", kMostSlots);
  return settings;
}

void apply_mm_settings(Remote& leader, const MmSettings& settings) {
  for (uint64_t bit = 1; bit <= kAllRegistrations; bit <<= 1) {
    if ((settings.membarrier & bit) == 0) continue;
    const long r = leader.syscall(SYS_membarrier, bit, 0, 0);
    if (r < 0) {
      const int err = static_cast<int>(-r);
      fail(err == EINVAL ? ENOEXEC : err, "{}: membarrier {:#x}, for which it was registered, is not to be had here: {}",
           leader.pid(), bit, errno_text(err));
    }
  }
  if (!settings.futex_hash) return;
  if (leader.syscall(SYS_prctl, abi::kPrFutexHash, abi::kFutexHashGetSlots) == static_cast<long>(*settings.futex_hash)) return;
  // Only how fast it is depends on it: a kernel without such tables does without.
  leader.syscall(SYS_prctl, abi::kPrFutexHash, abi::kFutexHashSetSlots, *settings.futex_hash, 0);
}

}  // namespace ckpt
