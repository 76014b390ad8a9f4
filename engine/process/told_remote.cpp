#include "engine/process/told_remote.h"

#include <asm/prctl.h>
#include <linux/keyctl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

#include <algorithm>
#include <cstring>

#include "engine/base/error.h"

namespace ckpt {
namespace {

/// No user address (it is not canonical for one), so that nothing of the process is taken for it.
constexpr uint64_t kScratch = 0xffffa00000000000;
/// Of Linux 6.3 and 6.4 (include/uapi/linux/prctl.h).
constexpr uint64_t kGetMdwe = 66, kGetMemoryMerge = 68;
constexpr int kNsPerUs = 1000;
constexpr int kNsPerSecond = 1'000'000'000;

itimerval interval_of(const ckpt_timer_value& timer) {
  const auto split = [](uint64_t ns) {
    return timeval{static_cast<time_t>(ns / kNsPerSecond), static_cast<suseconds_t>(ns % kNsPerSecond / kNsPerUs)};
  };
  return {split(timer.interval_ns), split(timer.value_ns)};
}

itimerspec setting_of(const ckpt_timer& timer) {
  const auto split = [](uint64_t ns) {
    return timespec{static_cast<time_t>(ns / kNsPerSecond), static_cast<long>(ns % kNsPerSecond)};
  };
  return {split(timer.interval_ns), split(timer.value_ns)};
}

/// Of an option without arguments: a kernel that does not know it answers anybody with EINVAL.
std::optional<long> unknown_option(uint64_t option) {
  if (::prctl(static_cast<int>(option), 0, 0, 0, 0) < 0 && errno == EINVAL) return -EINVAL;
  return std::nullopt;
}

/// False where the module does not tell.
bool ask_process(int module, pid_t pid, ProcessFacts& facts) {
  for (size_t capacity = 16;; capacity *= 4) {
    facts.timers.resize(capacity);
    facts.process = {};
    facts.process.pid = pid;
    facts.process.capacity = static_cast<uint32_t>(capacity);
    facts.process.timers = reinterpret_cast<uint64_t>(facts.timers.data());
    if (::ioctl(module, CKPT_IOC_PROCESS, &facts.process) == 0) break;
    if (errno != ENOSPC) return false;
  }
  facts.timers.resize(facts.process.count);
  return true;
}

}  // namespace

ToldRemote::ToldRemote(RemoteSyscall& thread, std::shared_ptr<const ProcessFacts> process, const ckpt_thread& facts)
    : thread_(thread), process_(std::move(process)), facts_(facts) {}

bool ToldRemote::in_scratch(uint64_t address) const { return address - kScratch < scratch_.size(); }

RemotePtr ToldRemote::scratch() const { return RemotePtr{kScratch}; }

/// The scratch memory becomes one in the process.
void ToldRemote::move_in() {
  if (moved_in_) return;
  thread_.write(thread_.scratch(), scratch_);
  moved_in_ = true;
}

uint64_t ToldRemote::there(uint64_t address) const {
  return in_scratch(address) ? thread_.scratch().addr + (address - kScratch) : address;
}

void ToldRemote::read(RemotePtr from, std::span<std::byte> to) {
  if (moved_in_ || !in_scratch(from.addr)) return thread_.read(RemotePtr{there(from.addr)}, to);
  const size_t offset = from.addr - kScratch;
  if (to.size() > scratch_.size() - offset) fail(EFAULT, "{}: {} bytes of scratch memory", tid(), to.size());
  std::memcpy(to.data(), scratch_.data() + offset, to.size());
}

void ToldRemote::write(RemotePtr to, std::span<const std::byte> from) {
  if (moved_in_ || !in_scratch(to.addr)) return thread_.write(RemotePtr{there(to.addr)}, from);
  const size_t offset = to.addr - kScratch;
  if (from.size() > scratch_.size() - offset) fail(EFAULT, "{}: {} bytes of scratch memory", tid(), from.size());
  std::memcpy(scratch_.data() + offset, from.data(), from.size());
}

RemotePtr ToldRemote::put_calls(const std::vector<SystemCall>& calls, size_t& offset) {
  move_in();
  return thread_.put_calls(calls, offset);
}

long ToldRemote::syscall(long nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f) {
  if (const auto told = answer(nr, {a, b, c, d, e, f})) return *told;
  move_in();
  return thread_.syscall(nr, there(a), there(b), there(c), there(d), there(e), there(f));
}

std::vector<long> ToldRemote::run_all(std::span<const SystemCall> calls) {
  std::vector<long> results;
  std::vector<SystemCall> unknown;
  std::vector<size_t> places;
  for (const SystemCall& call : calls) {
    const auto told = answer(call.nr, call.args);
    if (!told) {
      unknown.push_back(call);
      places.push_back(results.size());
    }
    results.push_back(told.value_or(0));
  }
  if (unknown.empty()) return results;
  move_in();
  for (SystemCall& call : unknown) {
    for (uint64_t& argument : call.args) argument = there(argument);
  }
  const std::vector<long> made = thread_.run_all(unknown);
  for (size_t i = 0; i < made.size(); ++i) results[places[i]] = made[i];
  return results;
}

uint64_t ToldRemote::future_lock() const {
  const uint32_t flags = process_->process.flags;
  if ((flags & CKPT_PROCESS_LOCK_FUTURE) == 0) return 0;
  return (flags & CKPT_PROCESS_LOCK_ON_FAULT) != 0 ? 2 : 1;
}

std::optional<long> ToldRemote::answer(long nr, const Arguments& a) {
  const ckpt_process& process = process_->process;
  switch (nr) {
    case SYS_rt_sigaction:
      if (a[0] < 1 || a[0] > std::size(process.actions) || a[1] != 0 || a[3] != 8) return std::nullopt;
      return give(a[2], process.actions[a[0] - 1]);
    case SYS_sigaltstack: {
      if (a[0] != 0) return std::nullopt;
      stack_t stack{};
      stack.ss_sp = reinterpret_cast<void*>(facts_.altstack);
      stack.ss_flags = static_cast<int>(facts_.altstack_flags);
      stack.ss_size = facts_.altstack_size;
      return give(a[1], stack);
    }
    case SYS_brk: return a[0] == 0 ? std::optional(static_cast<long>(process.brk)) : std::nullopt;
    case SYS_getitimer:
      if (a[0] >= std::size(process.intervals)) return std::nullopt;
      return give(a[1], interval_of(process.intervals[a[0]]));
    case SYS_timer_gettime: return answer_timer(a);
    case SYS_keyctl: return answer_keyring(a);
    case SYS_pkey_mprotect: return answer_protection_key(a);
    case SYS_arch_prctl:
      if (a[0] == ARCH_GET_CPUID) return (facts_.flags & CKPT_THREAD_NO_CPUID) == 0;
      if (a[0] == ARCH_GET_XCOMP_PERM) return give(a[1], facts_.xfeatures_permitted);
      return std::nullopt;
    case SYS_prctl: return answer_prctl(a);
    default: return std::nullopt;
  }
}

std::optional<long> ToldRemote::answer_timer(const Arguments& a) {
  const auto& timers = process_->timers;
  const auto found = std::ranges::find(timers, static_cast<int>(a[0]), &ckpt_timer::id);
  if (found == timers.end()) return std::nullopt;
  return give(a[1], setting_of(*found));
}

// -ENOKEY also for a session keyring that is the user's: the kernel would give it to the process by being asked.
std::optional<long> ToldRemote::answer_keyring(const Arguments& a) const {
  if (a[0] != KEYCTL_GET_KEYRING_ID || a[2] != 0) return std::nullopt;
  const auto told = [](int32_t serial) { return serial == 0 ? long{-ENOKEY} : long{serial}; };
  switch (static_cast<int>(a[1])) {
    case KEY_SPEC_THREAD_KEYRING: return told(facts_.thread_keyring);
    case KEY_SPEC_PROCESS_KEYRING: return told(facts_.process_keyring);
    case KEY_SPEC_SESSION_KEYRING: return told(facts_.session_keyring);
    default: return std::nullopt;
  }
}

// Of no memory: whether the key is allocated (do_mprotect_pkey() in mm/mprotect.c).
std::optional<long> ToldRemote::answer_protection_key(const Arguments& a) const {
  if (a[0] != 0 || a[3] >= 16) return std::nullopt;
  return (process_->process.protection_keys >> a[3] & 1) != 0 ? -ENOMEM : -EINVAL;
}

std::optional<long> ToldRemote::answer_prctl(const Arguments& a) {
  const ckpt_process& process = process_->process;
  switch (a[0]) {
    case PR_GET_TID_ADDRESS: return give(a[1], facts_.clear_child_tid);
    case PR_GET_PDEATHSIG: return give(a[1], facts_.parent_death_signal);
    case PR_GET_TIMERSLACK: return static_cast<long>(facts_.timer_slack_ns);
    case PR_GET_SECUREBITS: return facts_.securebits;
    case PR_GET_TSC: return give(a[1], int{(facts_.flags & CKPT_THREAD_NO_TSC) != 0 ? PR_TSC_SIGSEGV : PR_TSC_ENABLE});
    case PR_GET_SPECULATION_CTRL:
      if (a[1] >= std::size(facts_.speculation)) return std::nullopt;
      return facts_.speculation[a[1]];
    case PR_GET_DUMPABLE: return process.dumpable;
    case PR_GET_CHILD_SUBREAPER: return give(a[1], int{(process.flags & CKPT_PROCESS_SUBREAPER) != 0});
    case PR_GET_THP_DISABLE: return (process.flags & CKPT_PROCESS_THP_DISABLED) != 0;
    // Newer than the kernels that the module is for.
    case kGetMdwe:
    case kGetMemoryMerge: return unknown_option(a[0]);
    default: return std::nullopt;
  }
}

std::vector<std::unique_ptr<ToldRemote>> told_remotes(const StoppedProcess& process, int module) {
  std::vector<std::unique_ptr<ToldRemote>> remotes;
  const auto facts = std::make_shared<ProcessFacts>();
  if (!ask_process(module, process.pid(), *facts)) return remotes;
  for (const auto& thread : process.threads()) {
    ckpt_thread of_thread{};
    of_thread.tid = thread->tid();
    if (::ioctl(module, CKPT_IOC_THREAD, &of_thread) != 0) return {};
    remotes.push_back(std::make_unique<ToldRemote>(*thread, facts, of_thread));
  }
  return remotes;
}

}  // namespace ckpt
