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

#include <cstring>

#include "engine/memory/page_scan.h"
#include "engine/memory/remote_memory.h"
#include "engine/memory/snapshot.h"
#include "engine/memory/stop_copies.h"

namespace ckpt {
namespace {

class ForkSnapshot : public Snapshot {
 public:
  explicit ForkSnapshot(pid_t pid) : pid_(pid), memory_(pid), scanner_(pid) {}
  ~ForkSnapshot() override { release(nullptr); }

  const char* name() const override { return "fork"; }
  pid_t pid() const override { return pid_; }
  void fix(const std::vector<Vma>& vmas, Remote& leader) override;
  /// Where no child could be made (limits, memory) the process is copied while it is stopped.
  bool needs_stop() const override { return child_ == 0; }
  std::vector<Range> touched(const Vma& vma) override;
  void read(Range range, std::span<std::byte> out) override;
  bool wants_release_stop() const override { return child_ != 0; }
  void release(Remote* leader) noexcept override;

 private:
  /// What a child does not inherit: MADV_DONTFORK, MADV_WIPEONFORK; and private huge pages, which the kernel takes away
  /// from the child when the parent writes and the pool is empty (mm/hugetlb.c).
  static bool inherited(const Vma& vma) {
    return !vma.has_flag("dc") && !vma.has_flag("wf") && !vma.has_flag("ht");
  }
  bool adopt_child(pid_t child);

  const pid_t pid_;
  RemoteMemory memory_;
  PageScanner scanner_;
  StopCopies copies_;
  pid_t child_ = 0;
  std::optional<RemoteMemory> child_memory_;
  std::optional<PageScanner> child_scanner_;
};

void ForkSnapshot::fix(const std::vector<Vma>& vmas, Remote& leader) {
  // Children of a process in another pid namespace have numbers that are not ours.
  const std::string status = read_file(fmt::format("/proc/{}/status", pid_));
  const size_t at = status.find("\nNSpid:\t");
  if (at != std::string::npos && status.substr(at + 8, status.find('\n', at + 8) - at - 8) != std::to_string(pid_)) {
    return;
  }
  constexpr uint64_t flags = CLONE_PTRACE | CLONE_UNTRACED | CLONE_FILES | CLONE_FS | CLONE_IO | CLONE_SYSVSEM;
  constexpr uint64_t nowhere = 8;   // no page is ever mapped there
  const long child = leader.syscall(SYS_clone, flags, nowhere);
  if (child <= 0 || !adopt_child(static_cast<pid_t>(child))) return;
  for (const Vma& vma : vmas) {
    if (inherited(vma)) continue;
    for (const Range& run : scanner_.touched(vma)) copies_.copy(memory_, run);
  }
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

std::vector<Range> ForkSnapshot::touched(const Vma& vma) {
  if (!child_) return scanner_.touched(vma);
  return inherited(vma) ? child_scanner_->touched(vma) : copies_.within(vma);
}

void ForkSnapshot::read(Range range, std::span<std::byte> out) {
  if (!child_) return memory_.read(range.start, out.first(range.size()));
  uint64_t next = 0;
  const std::span<const std::byte> copied = copies_.at(range.start, next);
  if (copied.empty()) return child_memory_->read(range.start, out.first(range.size()));
  if (copied.size() < range.size()) fail(EINVAL, "memory {} is not in the snapshot", range_name(range));
  std::memcpy(out.data(), copied.data(), range.size());
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
