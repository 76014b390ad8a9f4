// The system calls of a stub's threads.
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>

#include "engine/base/error.h"
#include "engine/process/stub.h"

namespace ckpt {

namespace {

constexpr int kSyscallStop = SIGTRAP | 0x80;   // PTRACE_O_TRACESYSGOOD
constexpr std::array<uint8_t, 3> kGadget = {0x0f, 0x05, 0xcc};  // syscall; int3
// Beside it, a use of the tiles: ldtilecfg (%rsi); tilezero %tmm0; tilerelease; syscall
constexpr std::array<uint8_t, 17> kTileGadget = {0xc4, 0xe2, 0x78, 0x49, 0x06, 0xc4, 0xe2, 0x7b, 0x49,
                                                 0xc0, 0xc4, 0xe2, 0x78, 0x49, 0xc0, 0x0f, 0x05};
constexpr uint64_t kTileGadgetAt = 16;
// A loop over system calls, from %rbx to %rbp; then the thread stops itself, with the one signal that cannot be blocked:
//   0: mov (%rbx),%rax; mov 8(%rbx),%rdi; mov 16(%rbx),%rsi; mov 24(%rbx),%rdx; mov 32(%rbx),%r10; mov 40(%rbx),%r8;
//      mov 48(%rbx),%r9; syscall; mov %rax,56(%rbx); add $64,%rbx; cmp %rbp,%rbx; jne 0b
//   1: mov $SYS_gettid,%eax; syscall; mov %eax,%edi; mov $SIGSTOP,%esi; mov $SYS_tkill,%eax; syscall; jmp 1b
constexpr std::array<uint8_t, 65> kLoopGadget = {
    0x48, 0x8b, 0x03, 0x48, 0x8b, 0x7b, 0x08, 0x48, 0x8b, 0x73, 0x10, 0x48, 0x8b, 0x53, 0x18, 0x4c, 0x8b,
    0x53, 0x20, 0x4c, 0x8b, 0x43, 0x28, 0x4c, 0x8b, 0x4b, 0x30, 0x0f, 0x05, 0x48, 0x89, 0x43, 0x38, 0x48,
    0x83, 0xc3, 0x40, 0x48, 0x39, 0xeb, 0x75, 0xd6, 0xb8, 0xba, 0x00, 0x00, 0x00, 0x0f, 0x05, 0x89, 0xc7,
    0xbe, 0x13, 0x00, 0x00, 0x00, 0xb8, 0xc8, 0x00, 0x00, 0x00, 0x0f, 0x05, 0xeb, 0xe9};
constexpr uint64_t kLoopGadgetAt = 64;

/// As the loop reads it.
struct CallSlot {
  int64_t nr;
  uint64_t args[6];
  int64_t result;
};
static_assert(sizeof(CallSlot) == 64);
constexpr size_t kSlots = 4096 / sizeof(CallSlot);

bool is_event(int status, int event) { return status >> 16 == event; }

}  // namespace

pid_t StubThread::pid() const { return stub_.pid(); }
RemotePtr StubThread::scratch() const { return stub_.scratch_; }
size_t StubThread::scratch_size() const { return stub_.scratch_size_; }

long StubThread::syscall(long nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f) {
  return stub_.run(tid_, stub_.gadget_, nr, {a, b, c, d, e, f});
}

std::vector<long> StubThread::run_all(std::span<const SystemCall> calls) {
  if (stub_.helper_.addr == 0) return Remote::run_all(calls);
  const RemotePtr at = stub_.helper_ + 4096;
  std::vector<long> results;
  for (; calls.size() > 1; calls = calls.subspan(std::min(calls.size(), kSlots))) {
    std::vector<CallSlot> slots;
    for (const SystemCall& call : calls.first(std::min(calls.size(), kSlots))) {
      CallSlot& slot = slots.emplace_back();
      slot.nr = call.nr;
      std::ranges::copy(call.args, slot.args);
    }
    write(at, std::as_bytes(std::span(slots)));
    stub_.run_loop(tid_, at + slots.size() * sizeof(CallSlot));
    read(at, std::as_writable_bytes(std::span(slots)));
    for (const CallSlot& slot : slots) results.push_back(slot.result);
  }
  if (!calls.empty()) results.push_back(Remote::run_all(calls).front());
  return results;
}

void StubThread::use_tiles() {
  struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  } configuration = {1, 0, {}, {64}, {1}};
  static_assert(sizeof configuration == 64);
  const RemotePtr at = put(configuration);
  stub_.run(tid_, stub_.helper_ + kTileGadgetAt, SYS_getpid, {0, at.addr, 0, 0, 0, 0});
}

void StubThread::read(RemotePtr from, std::span<std::byte> to) {
  while (!to.empty()) {
    const ssize_t n = pread(stub_.mem_.get(), to.data(), to.size(), static_cast<off_t>(from.addr));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_errno("{}: reading memory at {:#x}", pid(), from.addr);
    if (n == 0) fail(ESRCH, "{}: the process is gone", pid());
    from = from + static_cast<uint64_t>(n);
    to = to.subspan(static_cast<size_t>(n));
  }
}

void StubThread::write(RemotePtr to, std::span<const std::byte> from) {
  while (!from.empty()) {
    const ssize_t n = pwrite(stub_.mem_.get(), from.data(), from.size(), static_cast<off_t>(to.addr));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_errno("{}: writing memory at {:#x}", pid(), to.addr);
    if (n == 0) fail(ESRCH, "{}: the process is gone", pid());
    to = to + static_cast<uint64_t>(n);
    from = from.subspan(static_cast<size_t>(n));
  }
}

void Stub::use_helper(RemotePtr at) {
  constexpr uint64_t kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
  leader().call("mmap", SYS_mmap, at.addr, 4096, PROT_READ | PROT_EXEC, kFlags, ~0ull, 0);
  leader().call("mmap", SYS_mmap, at.addr + 4096, kHelperSize - 4096, PROT_READ | PROT_WRITE, kFlags, ~0ull, 0);
  leader().write(at, std::as_bytes(std::span(kGadget)));
  leader().write(at + kTileGadgetAt, std::as_bytes(std::span(kTileGadget)));
  leader().write(at + kLoopGadgetAt, std::as_bytes(std::span(kLoopGadget)));
  gadget_ = at;
  helper_ = at;
  scratch_ = at + 2 * 4096;
  scratch_size_ = kHelperSize - 2 * 4096;
  base_.rsp = (scratch_ + scratch_size_).addr;
}

// Waits until the thread stops; returns its wait status.
int Stub::wait_stop(pid_t tid) {
  int status = 0;
  while (waitpid(tid, &status, __WALL) < 0) {
    if (errno != EINTR) fail_errno("{}: waiting for thread {}", pid_, tid);
  }
  if (!WIFSTOPPED(status)) {
    // A leader's end is reported when all its threads are gone; kill() must not wait for it again.
    if (tid == pid_) alive_ = false;
    fail(ESRCH, "{}: the new process was killed", pid_);
  }
  return status;
}

// Lets the thread go on to its next system call stop. Signals that somebody sends meanwhile are dropped (all but
// SIGSTOP are blocked anyway); the report of a new thread is passed over.
void Stub::wait_syscall_stop(pid_t tid, int op) {
  for (;;) {
    if (ptrace(static_cast<__ptrace_request>(op), tid, 0, 0) != 0) {
      if (errno != ESRCH) fail_errno("{}: ptrace of thread {}", pid_, tid);
      wait_stop(tid);          // reports the death
    }
    const int status = wait_stop(tid);
    if (WSTOPSIG(status) == kSyscallStop) return;
    if (!is_event(status, PTRACE_EVENT_CLONE) && !is_event(status, PTRACE_EVENT_FORK) &&
        !is_event(status, PTRACE_EVENT_STOP) &&
        WSTOPSIG(status) != SIGSTOP) {
      fail(EIO, "{}: thread {} stopped unexpectedly (signal {})", pid_, tid, WSTOPSIG(status));
    }
  }
}

long Stub::run(pid_t tid, RemotePtr code, long nr, const uint64_t (&args)[6]) {
  user_regs_struct regs = base_;
  regs.rip = code.addr;
  regs.rax = static_cast<uint64_t>(nr);
  regs.rdi = args[0];
  regs.rsi = args[1];
  regs.rdx = args[2];
  regs.r10 = args[3];
  regs.r8 = args[4];
  regs.r9 = args[5];
  if (ptrace(PTRACE_SETREGS, tid, 0, &regs) != 0) fail_errno("{}: registers of thread {}", pid_, tid);
  wait_syscall_stop(tid, PTRACE_SYSCALL);
  wait_syscall_stop(tid, PTRACE_SYSCALL);
  errno = 0;
  const long result = ptrace(PTRACE_PEEKUSER, tid, offsetof(user_regs_struct, rax), 0);
  if (result == -1 && errno != 0) fail_errno("{}: registers of thread {}", pid_, tid);
  return result;
}

void Stub::run_loop(pid_t tid, RemotePtr end) {
  user_regs_struct regs = base_;
  regs.rip = (helper_ + kLoopGadgetAt).addr;
  regs.rbx = (helper_ + 4096).addr;
  regs.rbp = end.addr;
  if (ptrace(PTRACE_SETREGS, tid, 0, &regs) != 0) fail_errno("{}: registers of thread {}", pid_, tid);
  do {
    if (ptrace(PTRACE_CONT, tid, 0, 0) != 0 && errno != ESRCH) fail_errno("{}: ptrace of thread {}", pid_, tid);
    const int status = wait_stop(tid);
    if (status >> 16 == 0 && WSTOPSIG(status) != SIGSTOP) {
      fail(EIO, "{}: thread {} stopped unexpectedly (signal {})", pid_, tid, WSTOPSIG(status));
    }
    // It has not stopped itself where somebody else has sent it a signal, which is dropped.
    if (ptrace(PTRACE_GETREGS, tid, 0, &regs) != 0) fail_errno("{}: registers of thread {}", pid_, tid);
  } while (regs.rbx != end.addr);
}

}  // namespace ckpt
