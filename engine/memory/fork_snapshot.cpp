// A copy-on-write child holds the instant. Serves where userfaultfd does not: unprivileged daemons, old kernels, processes
// with a userfaultfd of their own. The stop grows with the page tables (25 ms a GiB of 4 KiB pages), later writes of the
// process copy pages.
//
// The child is not the process's: another task, the maker, that shares the memory for a moment, makes it and ends, and
// the process reaps the maker within the stop. So the child belongs to init (or to a subreaper above the process), which
// reaps it whenever it ends, ours or by our death. Both share descriptors, filesystem state and semaphore undos, so that
// they hold nothing open and undo nothing; they have no exit signal; they are born traced by us. Let go by our death they
// return into a call of exit_group(2), and the process waits for the maker by itself.
#include <sched.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "engine/memory/cow_snapshot.h"

namespace ckpt {
namespace {

class ForkSnapshot : public CowSnapshot {
 public:
  ForkSnapshot(pid_t pid, std::function<bool()> orphans_stay)
      : CowSnapshot(pid), orphans_stay_(std::move(orphans_stay)) {}
  ~ForkSnapshot() override { release(); }

  const char* name() const override { return "fork"; }
  void release() noexcept override;

 protected:
  bool make_copy(Remote& leader) override;
  std::vector<Range> touched_in_copy(const Vma& vma) override { return child_scanner_->touched(vma); }
  void read_copy(Range range, std::span<std::byte> out) override;

 private:
  pid_t make_child(Remote& leader) const;
  void run_maker(pid_t maker) const;
  void adopt_child(pid_t child);
  bool may_have_child() const;

  const std::function<bool()> orphans_stay_;
  pid_t child_ = 0;
  std::optional<RemoteMemory> child_memory_;
  std::optional<PageScanner> child_scanner_;
};

/// Waits for the next stop or the end of a task that we trace. -1 where there is none.
int wait_for_task(pid_t task) {
  int status = -1;
  while (::waitpid(task, &status, __WALL) < 0) {
    if (errno != EINTR) return -1;
  }
  return status;
}

bool ForkSnapshot::make_copy(Remote& leader) {
  const pid_t child = may_have_child() ? make_child(leader) : 0;
  if (child == 0) return false;
  adopt_child(child);
  return true;
}

bool ForkSnapshot::may_have_child() const {
  // What a process in another pid namespace makes has numbers that are not ours.
  const std::string status = read_file(fmt::format("/proc/{}/status", pid_));
  const size_t at = status.find("\nNSpid:\t");
  if (at != std::string::npos && status.substr(at + 8, status.find('\n', at + 8) - at - 8) != std::to_string(pid_)) {
    return false;
  }
  return !orphans_stay_ || !orphans_stay_();
}

/// 0 where none could be made (limits, memory, nothing to return through).
pid_t ForkSnapshot::make_child(Remote& leader) const {
  constexpr uint64_t flags = CLONE_PTRACE | CLONE_UNTRACED | CLONE_FILES | CLONE_FS | CLONE_IO | CLONE_SYSVSEM;
  const RemotePtr child_at = leader.put(uint64_t{0});
  size_t offset = 64;
  const RemotePtr child_stack = leader.put_calls({{SYS_exit_group, {0}}}, offset);
  const RemotePtr maker_stack = leader.put_calls(
      {{SYS_clone, {flags | CLONE_PARENT_SETTID, child_stack.addr, child_at.addr}}, {SYS_exit_group, {0}}}, offset);
  if (child_stack.addr == 0 || maker_stack.addr == 0) return 0;
  // Until the maker's number stands there it is the process's own, of which it is no child.
  leader.on_our_death({{SYS_wait4, {static_cast<uint64_t>(pid_), 0, __WALL, 0}}});
  const long maker = leader.syscall(SYS_clone, flags | CLONE_VM | CLONE_PARENT_SETTID, maker_stack.addr,
                                    leader.on_death_argument(0).addr);
  if (maker > 0) run_maker(static_cast<pid_t>(maker));
  leader.drop_first_on_death();
  if (maker <= 0) return 0;
  leader.syscall(SYS_wait4, static_cast<uint64_t>(maker), 0, __WALL, 0);
  return static_cast<pid_t>(leader.get<uint64_t>(child_at));
}

void ForkSnapshot::run_maker(pid_t maker) const {
  for (int status = wait_for_task(maker); status >= 0 && WIFSTOPPED(status); status = wait_for_task(maker)) {
    // Born stopped; or stopped with its process group. Nothing else is due: its signals are blocked.
    ::ptrace(PTRACE_CONT, maker, 0, 0);
  }
}

void ForkSnapshot::adopt_child(pid_t child) {
  child_ = child;
  if (!WIFSTOPPED(wait_for_task(child))) fail(ESRCH, "{}: the snapshot's child has ended", pid_);
  // Should we die, it dies, stopped with its process group or not.
  if (::ptrace(PTRACE_SETOPTIONS, child, 0, PTRACE_O_EXITKILL) != 0) fail_errno("{}: ptrace options of the child", pid_);
  child_memory_.emplace(child, true);
  child_scanner_.emplace(child);
}

void ForkSnapshot::read_copy(Range range, std::span<std::byte> out) {
  const int err = child_memory_->try_read(range.start, out);
  // Killed with its process group, or for want of memory: it says nothing of the process.
  if (err == ESRCH) throw SnapshotLost(EAGAIN, fmt::format("{}: the snapshot's child was killed", pid_));
  if (err != 0) fail(err, "{}: reading memory {}: {}", pid_, range_name(range), errno_text(err));
}

void ForkSnapshot::release() noexcept {
  if (child_ == 0) return;
  const pid_t child = std::exchange(child_, 0);
  child_memory_.reset();
  child_scanner_.reset();
  ::kill(child, SIGKILL);
  // Ours first, as its tracer; only then its parent sees it.
  for (int status = wait_for_task(child); status >= 0 && WIFSTOPPED(status); status = wait_for_task(child)) {
  }
}

}  // namespace

std::unique_ptr<Snapshot> make_fork_snapshot(pid_t pid, std::function<bool()> orphans_stay) {
  return std::make_unique<ForkSnapshot>(pid, std::move(orphans_stay));
}

}  // namespace ckpt
