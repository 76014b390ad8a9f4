// A copy-on-write child holds the instant. Serves where userfaultfd does not: unprivileged daemons, old kernels, processes
// with a userfaultfd of their own. The stop grows with the page tables (25 ms a GiB of 4 KiB pages), later writes of the
// process copy pages.
//
// The child shares descriptors, filesystem state and semaphore undos, so that it holds nothing open and undoes nothing;
// it has no exit signal, so that neither wait(2) without __WALL nor SIGCHLD tells of it; it is born traced by us and
// never runs an instruction: its stack pointer leads nowhere, should it ever be let go.
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
  explicit ForkSnapshot(pid_t pid) : CowSnapshot(pid) {}
  ~ForkSnapshot() override { release(nullptr); }

  const char* name() const override { return "fork"; }
  bool wants_release_stop() const override { return child_ != 0; }
  void release(Remote* leader) noexcept override;

 protected:
  bool make_copy(Remote& leader) override;
  std::vector<Range> touched_in_copy(const Vma& vma) override { return child_scanner_->touched(vma); }
  void read_copy(Range range, std::span<std::byte> out) override { child_memory_->read(range.start, out); }

 private:
  bool adopt_child(pid_t child);

  pid_t child_ = 0;
  std::optional<RemoteMemory> child_memory_;
  std::optional<PageScanner> child_scanner_;
};

bool ForkSnapshot::make_copy(Remote& leader) {
  // Children of a process in another pid namespace have numbers that are not ours.
  const std::string status = read_file(fmt::format("/proc/{}/status", pid_));
  const size_t at = status.find("\nNSpid:\t");
  if (at != std::string::npos && status.substr(at + 8, status.find('\n', at + 8) - at - 8) != std::to_string(pid_)) {
    return false;
  }
  constexpr uint64_t flags = CLONE_PTRACE | CLONE_UNTRACED | CLONE_FILES | CLONE_FS | CLONE_IO | CLONE_SYSVSEM;
  constexpr uint64_t nowhere = 8;   // no page is ever mapped there
  const long child = leader.syscall(SYS_clone, flags, nowhere);
  return child > 0 && adopt_child(static_cast<pid_t>(child));
}

bool ForkSnapshot::adopt_child(pid_t child) {
  child_ = child;
  int status = 0;
  while (::waitpid(child, &status, __WALL) < 0) {
    if (errno != EINTR) return false;
  }
  if (!WIFSTOPPED(status)) fail(ESRCH, "{}: the snapshot's child has ended", pid_);
  // Should we die, it dies; the process itself does not.
  if (::ptrace(PTRACE_SETOPTIONS, child, 0, PTRACE_O_EXITKILL) != 0) fail_errno("{}: ptrace options of the child", pid_);
  child_memory_.emplace(child, true);
  child_scanner_.emplace(child);
  return true;
}

void ForkSnapshot::release(Remote* leader) noexcept {
  if (child_ == 0) return;
  const pid_t child = std::exchange(child_, 0);
  child_memory_.reset();
  child_scanner_.reset();
  ::kill(child, SIGKILL);
  // Ours first, as its tracer; only then its parent sees it.
  int status = 0;
  while (::waitpid(child, &status, __WALL) >= 0 ? !WIFEXITED(status) && !WIFSIGNALED(status) : errno == EINTR) {
  }
  if (!leader) return;
  try {
    leader->syscall(SYS_wait4, static_cast<uint64_t>(child), 0, __WALL | WNOHANG, 0);
  } catch (const Error&) {
    // The process has ended, and its children went to init, which reaps them.
  }
}

}  // namespace

std::unique_ptr<Snapshot> make_fork_snapshot(pid_t pid) { return std::make_unique<ForkSnapshot>(pid); }

}  // namespace ckpt
