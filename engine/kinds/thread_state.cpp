#include "engine/kinds/thread_state.h"

#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/base/error.h"
#include "engine/process/procfs.h"

namespace ckpt {

namespace {

std::string task_file(const Remote& thread, const char* name) { return fmt::format("task/{}/{}", thread.tid(), name); }

std::string first_line(std::string text) {
  text.resize(std::min(text.find('\n'), text.size()));
  return text;
}

/// The thread's policy for broken memory as PR_MCE_KILL_GET tells it, from its PF_ flags (kernel/sys.c): early, late, or
/// the system's default.
int memory_failure_policy(const CaptureContext& ctx, const Remote& thread) {
  constexpr uint64_t kProcessPolicy = 0x80, kEarly = 0x08000000;
  const uint64_t flags = task_flags(ctx.proc_dir, thread.tid());
  if ((flags & kProcessPolicy) == 0) return PR_MCE_KILL_DEFAULT;
  return (flags & kEarly) != 0 ? PR_MCE_KILL_EARLY : PR_MCE_KILL_LATE;
}

/// Where the kernel writes at the thread's end: the word of set_tid_address(2), and those of the robust futexes that it
/// holds (exit_robust_list() in kernel/futex/core.c; Documentation/locking/robust-futex-ABI.rst).
void note_exit_words(const CaptureContext& ctx, Remote& thread, uint64_t tid_word, uint64_t head) {
  if (ctx.exit_words == nullptr) return;
  if (tid_word != 0) ctx.exit_words->push_back(tid_word);
  if (head == 0) return;
  constexpr size_t kLimit = 2048;  // ROBUST_LIST_LIMIT
  struct {
    uint64_t next, offset, pending;
  } list{};
  const auto word_of = [&](uint64_t entry) { return (entry & ~uint64_t{1}) + list.offset; };   // bit 0: with inheritance
  try {
    thread.read(RemotePtr{head}, std::as_writable_bytes(std::span(&list, 1)));
    if (list.pending != 0) ctx.exit_words->push_back(word_of(list.pending));
    uint64_t entry = list.next;
    for (size_t i = 0; i < kLimit && (entry & ~uint64_t{1}) != head; ++i) {
      ctx.exit_words->push_back(word_of(entry));
      entry = thread.get<uint64_t>(RemotePtr{entry & ~uint64_t{1}});
    }
  } catch (const Error& e) {
    if (e.err() != EFAULT) throw;  // the kernel gives up there as well
  }
}

constexpr Question kTidAddress{
    "prctl(PR_GET_TID_ADDRESS)", SYS_prctl, {PR_GET_TID_ADDRESS, Question::kAnswer}, sizeof(uint64_t)};
constexpr Question kDeathSignal{
    "prctl(PR_GET_PDEATHSIG)", SYS_prctl, {PR_GET_PDEATHSIG, Question::kAnswer}, sizeof(int32_t)};
// Not from /proc/TID/timerslack_ns, which wants CAP_SYS_NICE of whoever reads another's.
constexpr Question kTimerSlack{"prctl(PR_GET_TIMERSLACK)", SYS_prctl, {PR_GET_TIMERSLACK}};

}  // namespace

void ask_thread_state(Questions& questions) {
  questions.ask(kTidAddress);
  questions.ask(kDeathSignal);
  questions.ask(kTimerSlack);
}

void capture_thread_state(const CaptureContext& ctx, Remote& thread, const Questions& answers, Record& out) {
  const auto tid = static_cast<uint64_t>(thread.tid());
  std::string comm = read_file(ctx.proc_dir, task_file(thread, "comm"));
  if (!comm.empty() && comm.back() == '\n') comm.pop_back();
  out.add("name", comm);

  const auto tid_word = answers.answer<uint64_t>(kTidAddress);
  out.add_hex("clear_child_tid", tid_word);

  uint64_t head = 0;
  uint64_t length = 0;
  if (::syscall(SYS_get_robust_list, tid, &head, &length) != 0) fail_errno("{}: thread {}: robust list", ctx.pid, tid);
  out.add("robust_list", fmt::format("{:#x} {}", head, length));
  note_exit_words(ctx, thread, tid_word, head);

  __ptrace_rseq_configuration rseq{};
  if (::ptrace(PTRACE_GET_RSEQ_CONFIGURATION, thread.tid(), sizeof rseq, &rseq) == sizeof rseq &&
      rseq.rseq_abi_pointer != 0) {
    out.add("rseq", fmt::format("{:#x} {} {:#x}", rseq.rseq_abi_pointer, rseq.rseq_abi_size, rseq.signature));
  }

  out.add("parent_death_signal", answers.answer<int32_t>(kDeathSignal));
  out.add("personality", "0x" + first_line(read_file(ctx.proc_dir, task_file(thread, "personality"))));
  if (const int policy = memory_failure_policy(ctx, thread); policy != PR_MCE_KILL_DEFAULT) {
    out.add("memory_failure", int64_t{policy});
  }
  out.add("timer_slack_ns", static_cast<uint64_t>(answers.good_result(kTimerSlack)));
}

void restore_thread_state(const RestoreContext&, Remote& thread, const Record& record) {
  const std::string name = record.get("name");
  if (name.size() > 15) fail(EINVAL, "{}: a thread's name has at most 15 bytes", record.where());
  thread.call("prctl(PR_SET_NAME)", SYS_prctl, PR_SET_NAME, thread.put_string(name).addr, 0, 0, 0);
  thread.call("set_tid_address", SYS_set_tid_address, record.get_u64("clear_child_tid"));

  const auto robust = record.get_numbers("robust_list", 2);
  if (robust[0] != 0) thread.call("set_robust_list", SYS_set_robust_list, robust[0], robust[1]);
  if (record.has("rseq")) {
    const auto rseq = record.get_numbers("rseq", 3);
    thread.call("rseq", SYS_rseq, rseq[0], rseq[1], 0, rseq[2]);
  }
  if (const uint64_t signo = record.get_u64("parent_death_signal", 64); signo != 0) {
    thread.call("prctl(PR_SET_PDEATHSIG)", SYS_prctl, PR_SET_PDEATHSIG, signo, 0, 0, 0);
  }
  if (const uint64_t policy = record.get_u64_or("memory_failure", PR_MCE_KILL_DEFAULT); policy != PR_MCE_KILL_DEFAULT) {
    if (policy > PR_MCE_KILL_DEFAULT) fail(EINVAL, "{}: memory_failure {} is not known", record.where(), policy);
    thread.call("prctl(PR_MCE_KILL)", SYS_prctl, PR_MCE_KILL, PR_MCE_KILL_SET, policy, 0, 0);
  }
  // 0xffffffff asks, it does not set (personality(2)).
  thread.call("personality", SYS_personality, record.get_u64("personality", 0xfffffffe));
  thread.call("prctl(PR_SET_TIMERSLACK)", SYS_prctl, PR_SET_TIMERSLACK, record.get_u64("timer_slack_ns"), 0, 0, 0);
}

}  // namespace ckpt
