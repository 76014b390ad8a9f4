#include "engine/kinds/signals.h"

#include <sys/ptrace.h>
#include <sys/syscall.h>

#include <csignal>
#include <cstring>

#include "engine/base/error.h"
#include "engine/base/hex.h"
#include "engine/process/proc_status.h"

namespace ckpt {

namespace {

constexpr int kLastSignal = 64;
constexpr size_t kMaxPending = 1 << 16;  // RLIMIT_SIGPENDING bounds the queue; this bounds a hostile image

// The kernel's struct sigaction of x86-64 (arch/x86/include/uapi/asm/signal.h), not glibc's.
struct KernelAction {
  uint64_t handler = 0;
  uint64_t flags = 0;
  uint64_t restorer = 0;
  uint64_t mask = 0;
};

bool in_mask(uint64_t mask, int signo) { return (mask >> (signo - 1)) & 1; }

// Queued siginfo of one queue, oldest first, without dequeueing (ptrace(2), PTRACE_PEEKSIGINFO).
std::vector<siginfo_t> peek_queue(pid_t tid, bool shared) {
  std::vector<siginfo_t> queue;
  for (;;) {
    siginfo_t batch[16];
    struct __ptrace_peeksiginfo_args args = {};
    args.off = queue.size();
    args.flags = shared ? PTRACE_PEEKSIGINFO_SHARED : 0;
    args.nr = 16;
    const long n = ::ptrace(PTRACE_PEEKSIGINFO, tid, &args, batch);
    if (n < 0) fail_errno("{}: pending signals", tid);
    queue.insert(queue.end(), batch, batch + n);
    if (n < 16) return queue;
  }
}

void record_queue(pid_t tid, bool shared, Record& out) {
  for (const siginfo_t& info : peek_queue(tid, shared)) {
    out.add("pending", to_hex(std::as_bytes(std::span<const siginfo_t, 1>(&info, 1))));
  }
}

std::vector<siginfo_t> recorded_queue(const Record& record) {
  std::vector<siginfo_t> queue;
  for (const std::string& text : record.all("pending")) {
    const auto bytes = from_hex(text);
    siginfo_t info{};
    if (!bytes || bytes->size() != sizeof info) fail(EINVAL, "{}: a pending signal is not a siginfo in hex", record.where());
    std::memcpy(&info, bytes->data(), sizeof info);
    if (info.si_signo < 1 || info.si_signo > kLastSignal) {
      fail(EINVAL, "{}: a pending signal has the number {}", record.where(), info.si_signo);
    }
    queue.push_back(info);
    if (queue.size() > kMaxPending) fail(EINVAL, "{}: too many pending signals", record.where());
  }
  return queue;
}

KernelAction parse_action(const Record& record, const std::string& text, int& signo) {
  const auto v = record.numbers(text, 5);
  if (v[0] < 1 || v[0] > kLastSignal || v[0] == SIGKILL || v[0] == SIGSTOP) {
    fail(EINVAL, "{}: '{}' is not a signal action", record.where(), text);
  }
  signo = static_cast<int>(v[0]);
  return {v[1], v[2], v[3], v[4]};
}

// /proc tells only that there is a handler; which one, the process alone can say. The flags of SIGCHLD (children that
// leave no zombie) are in force without a handler too.
bool must_ask(uint64_t caught, int signo) { return in_mask(caught, signo) || signo == SIGCHLD; }

Question action_of(int signo) {
  return {"rt_sigaction", SYS_rt_sigaction, {static_cast<uint64_t>(signo), 0, Question::kAnswer, 8}, sizeof(KernelAction)};
}

constexpr Question kAltStack{"sigaltstack", SYS_sigaltstack, {0, Question::kAnswer}, sizeof(stack_t)};

}  // namespace

void ask_signals(const CaptureContext& ctx, Questions& questions) {
  const uint64_t caught = status_mask(ctx.status, "SigCgt");
  for (int signo = 1; signo <= kLastSignal; ++signo) {
    if (must_ask(caught, signo)) questions.ask(action_of(signo));
  }
}

void capture_signals(const CaptureContext& ctx, const Questions& answers) {
  Record out;
  const uint64_t caught = status_mask(ctx.status, "SigCgt");
  const uint64_t ignored = status_mask(ctx.status, "SigIgn");
  for (int signo = 1; signo <= kLastSignal; ++signo) {
    KernelAction action;
    if (must_ask(caught, signo)) {
      action = answers.answer<KernelAction>(action_of(signo));
      if (action.handler == 0 && action.flags == 0) continue;
    } else if (in_mask(ignored, signo)) {
      action.handler = reinterpret_cast<uint64_t>(SIG_IGN);
    } else {
      continue;
    }
    out.add("action", fmt::format("{} {:#x} {:#x} {:#x} {:#x}", signo, action.handler, action.flags, action.restorer,
                                  action.mask));
  }
  record_queue(ctx.leader->tid(), true, out);
  ctx.image->put(ctx.prefix + "signals", out.text());
}

void restore_signals(const RestoreContext& ctx, Remote& leader) {
  const std::string path = ctx.prefix + "signals";
  const Record record = Record::parse(ctx.image->read(path), path);
  for (const std::string& text : record.all("action")) {
    int signo = 0;
    const KernelAction action = parse_action(record, text, signo);
    leader.call("rt_sigaction", SYS_rt_sigaction, static_cast<uint64_t>(signo), leader.put(action).addr, 0, 8);
  }
  for (const siginfo_t& info : recorded_queue(record)) {
    leader.call("rt_sigqueueinfo", SYS_rt_sigqueueinfo, static_cast<uint64_t>(leader.pid()),
                static_cast<uint64_t>(info.si_signo), leader.put(info).addr);
  }
}

void ask_thread_signals(Questions& questions) { questions.ask(kAltStack); }

void capture_thread_signals(const CaptureContext&, Remote& thread, const Questions& answers, Record& out) {
  out.add_hex("sigmask", thread.signal_mask());
  const auto stack = answers.answer<stack_t>(kAltStack);
  out.add("altstack", fmt::format("{:#x} {} {:#x}", reinterpret_cast<uint64_t>(stack.ss_sp), stack.ss_size,
                                  static_cast<uint32_t>(stack.ss_flags)));
  record_queue(thread.tid(), false, out);
}

void restore_thread_signals(const RestoreContext&, Remote& thread, const Record& record) {
  const auto v = record.get_numbers("altstack", 3);
  if ((v[2] & SS_DISABLE) == 0) {
    stack_t stack{};
    stack.ss_sp = reinterpret_cast<void*>(v[0]);
    stack.ss_size = v[1];
    // SS_ONSTACK is the kernel's answer to where the stack pointer is, not a setting.
    stack.ss_flags = static_cast<int>(v[2] & ~uint64_t{SS_ONSTACK});
    thread.call("sigaltstack", SYS_sigaltstack, thread.put(stack).addr, 0);
  }
  for (const siginfo_t& info : recorded_queue(record)) {
    // A thread may send itself any siginfo, the kernel's own codes included (rt_tgsigqueueinfo(2)).
    thread.call("rt_tgsigqueueinfo", SYS_rt_tgsigqueueinfo, static_cast<uint64_t>(thread.pid()),
                static_cast<uint64_t>(thread.tid()), static_cast<uint64_t>(info.si_signo), thread.put(info).addr);
  }
}

uint64_t recorded_signal_mask(const Record& thread) { return thread.get_u64("sigmask"); }

}  // namespace ckpt
