#include "engine/process/restart.h"

#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "engine/base/error.h"

namespace ckpt {
namespace {

// The calls that use current->restart_block: kernel/time/{hrtimer,alarmtimer,posix-cpu-timers}.c,
// fs/select.c, futex.
constexpr std::array<long, 4> kRestartBlockCalls = {SYS_nanosleep, SYS_clock_nanosleep, SYS_poll, SYS_futex};

constexpr std::array<long, 12> kNeverRestarted = {
    SYS_epoll_wait,   SYS_epoll_pwait,   SYS_epoll_pwait2, SYS_semop,   SYS_semtimedop, SYS_rt_sigtimedwait,
    SYS_io_getevents, SYS_io_pgetevents, SYS_accept,       SYS_accept4, SYS_recvfrom,   SYS_recvmsg};

}  // namespace

user_regs_struct undo_interruption(const user_regs_struct& regs) {
  user_regs_struct undone = regs;
  const long orig = static_cast<long>(regs.orig_rax);
  if (static_cast<long>(regs.rax) == -EINTR &&
      std::find(kNeverRestarted.begin(), kNeverRestarted.end(), orig) != kNeverRestarted.end()) {
    undone.rax = static_cast<unsigned long long>(-514);
  }
  return undone;
}

void undo_our_stop(Tracee& tracee) {
  const user_regs_struct found = tracee.registers();
  const user_regs_struct undone = undo_interruption(found);
  if (undone.rax != found.rax) tracee.set_registers(undone);
}

user_regs_struct undo_restart(const Tracee& tracee, const user_regs_struct& regs) {
  if (regs.rax != SYS_restart_syscall) return regs;
  constexpr std::array<unsigned char, 2> kSyscall = {0x0f, 0x05};
  std::array<unsigned char, 2> code{};
  try {
    tracee.read({regs.rip}, std::as_writable_bytes(std::span(code)));
  } catch (const Error& e) {
    if (e.err() != EFAULT) throw;
  }
  if (code != kSyscall) return regs;
  user_regs_struct before = regs;
  before.rip += code.size();
  before.orig_rax = SYS_restart_syscall;
  before.rax = static_cast<unsigned long long>(-516);
  return before;
}

user_regs_struct sleep_the_rest(user_regs_struct regs, long repeat_nr) {
  if (static_cast<long>(regs.rax) != -516) return regs;
  if (repeat_nr == SYS_nanosleep && regs.rsi != 0) regs.rdi = regs.rsi;
  if (repeat_nr == SYS_clock_nanosleep && regs.r10 != 0) regs.rdx = regs.r10;
  return regs;
}

long call_to_repeat(const Tracee& tracee, const user_regs_struct& regs) {
  const long orig = static_cast<long>(regs.orig_rax);
  if (static_cast<long>(regs.rax) != -516 || orig < 0) return -1;
  if (orig != SYS_restart_syscall) return orig;
  // mov $NR, %eax is b8 imm32; a few instructions may stand between it and the syscall. The nearest one
  // counts.
  std::array<unsigned char, 64> code{};
  try {
    tracee.read({regs.rip - 2 - code.size()}, std::as_writable_bytes(std::span(code)));
  } catch (const Error& e) {
    if (e.err() != EFAULT) throw;
    return -1;
  }
  for (size_t i = code.size() - 5;; --i) {
    int32_t nr = 0;
    std::memcpy(&nr, &code[i + 1], sizeof nr);
    const bool mov_eax = code[i] == 0xb8;
    const bool mov_rax = code[i] == 0xc0 && i >= 2 && code[i - 1] == 0xc7 && code[i - 2] == 0x48;
    if ((mov_eax || mov_rax) &&
        std::find(kRestartBlockCalls.begin(), kRestartBlockCalls.end(), nr) != kRestartBlockCalls.end()) {
      return nr;
    }
    if (i == 0) return -1;
  }
}

}  // namespace ckpt
