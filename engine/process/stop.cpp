#include "engine/process/stop.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <algorithm>

#include "engine/base/error.h"
#include "engine/process/vfork.h"

namespace ckpt {
namespace {

using Clock = std::chrono::steady_clock;

std::string read_or_empty(int dirfd, const std::string& path) {
  try {
    return read_file(dirfd, path);
  } catch (const Error&) {
    return {};
  }
}

}  // namespace

StoppedProcess::StoppedProcess(pid_t pid) : pid_(pid), proc_dir_(open_proc(pid)) {
  pid_fd_.reset(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!pid_fd_) fail_errno("{}: pidfd_open", pid);
  // Slow in a process not seen before (a search through libc), so it is done while the process runs.
  site_ = find_injection_site(pid, parse_mappings(read_file(proc_dir_.get(), "maps")));
  while (seize_new_threads()) {
  }
  if (tracees_.empty() || tracees_.front()->tid() != pid) fail(ESRCH, "{}: the process has ended", pid);
}

StoppedProcess::~StoppedProcess() { resume(); }

// Seizes the threads that are not yet ours; true if there were any.
bool StoppedProcess::seize_new_threads() {
  bool any = false;
  for (const pid_t tid : list_tasks(proc_dir_.get())) {
    if (std::any_of(tracees_.begin(), tracees_.end(), [tid](const auto& t) { return t->tid() == tid; }))
      continue;
    try {
      tracees_.push_back(std::make_unique<Tracee>(pid_, tid));
      any = true;
    } catch (const Error& e) {
      if (e.err() == ESRCH) continue;  // ended meanwhile
      if (e.err() != EPERM) throw;
      const std::string text = read_or_empty(proc_dir_.get(), fmt::format("task/{}/status", tid));
      if (text.empty()) continue;
      const ProcStatus status = parse_status(text, tid);
      if (status.state == 'Z' || status.state == 'X') {
        if (tid != pid_ || status.threads <= 1) continue;
        fail(EOPNOTSUPP, "{}: its main thread has ended while others go on; this cannot be checkpointed",
             pid_);
      }
      if (status.tracer != 0)
        fail(EBUSY, "{}: thread {} is traced already, by process {}", pid_, tid, status.tracer);
      throw;
    }
  }
  return any;
}

void StoppedProcess::fail_unstoppable(const Tracee& thread) const {
  if (waits_in_vfork(proc_dir_.get(), thread.tid())) {
    fail(EBUSY, "{}: thread {} does not stop: it waits in vfork(2) for its child to end or to become another program", pid_,
         thread.tid());
  }
  const std::string dir = fmt::format("task/{}/", thread.tid());
  const std::string text = read_or_empty(proc_dir_.get(), dir + "status");
  const std::string wchan = read_or_empty(proc_dir_.get(), dir + "wchan");
  const char state = text.empty() ? '?' : parse_status(text, thread.tid()).state;
  fail(EBUSY, "{}: thread {} does not stop: it waits in the kernel (state {}{}{})", pid_, thread.tid(), state,
       wchan.empty() || wchan == "0" ? "" : ", in ", wchan == "0" ? "" : wchan);
}

void StoppedProcess::wait_all(Clock::time_point deadline, const std::atomic<bool>* cancel) {
  // Its child needs a few milliseconds, or will not be done soon.
  const Clock::time_point in_vfork = Clock::now() + std::chrono::seconds(1);
  for (const auto& thread : tracees_) {
    while (!thread->wait_stop(std::min(deadline, Clock::now() + std::chrono::milliseconds(20)))) {
      if (cancel != nullptr && cancel->load()) fail(EINTR, "{}: the checkpoint was cancelled", pid_);
      const bool late = Clock::now() >= in_vfork && waits_in_vfork(proc_dir_.get(), thread->tid());
      if (late || Clock::now() >= deadline) fail_unstoppable(*thread);
    }
  }
}

void StoppedProcess::leave_vdso(Tracee& thread, Clock::time_point deadline) {
  constexpr int kTurns = 40;
  constexpr timespec kMoment = {0, 10'000};
  const auto vdso = std::find_if(site_.mappings.begin(), site_.mappings.end(),
                                 [](const Mapping& m) { return m.path == "[vdso]"; });
  if (vdso == site_.mappings.end()) return;
  for (int turn = 0; turn < kTurns && thread.stopped() && !thread.group_stopped(); ++turn) {
    const uint64_t ip = thread.registers().rip;
    if (ip < vdso->start || ip >= vdso->end) return;
    thread.go_on();
    ::nanosleep(&kMoment, nullptr);
    thread.interrupt();
    if (!thread.wait_stop(deadline)) fail_unstoppable(thread);
  }
}

void StoppedProcess::stop_outside_vdso(const std::atomic<bool>* cancel) {
  outside_vdso_ = true;
  stop(cancel);
}

void StoppedProcess::interrupt() {
  stopped_at_ = Clock::now();
  resumed_at_ = {};
  for (const auto& thread : tracees_) thread->interrupt();
}

void StoppedProcess::stop(const std::atomic<bool>* cancel, std::chrono::milliseconds limit) {
  if (stopped_at_ == Clock::time_point{} || resumed_at_ != Clock::time_point{}) interrupt();
  try {
    // A running thread may make another one until it stops itself: until nothing new is found.
    do {
      for (const auto& thread : tracees_) thread->interrupt();
      wait_all(stopped_at_ + limit, cancel);
      for (const auto& thread : tracees_) {
        if (outside_vdso_) leave_vdso(*thread, stopped_at_ + limit);
      }
    } while (seize_new_threads());
    std::erase_if(tracees_, [](const auto& t) { return t->gone(); });
    std::sort(tracees_.begin(), tracees_.end(),
              [](const auto& a, const auto& b) { return a->tid() < b->tid(); });
    const auto leader =
        std::find_if(tracees_.begin(), tracees_.end(), [this](auto& t) { return t->tid() == pid_; });
    if (leader == tracees_.end()) fail(ESRCH, "{}: the process has ended", pid_);
    std::rotate(tracees_.begin(), leader, leader + 1);
    maps_ = read_file(proc_dir_.get(), "maps");
    site_.mappings = parse_mappings(maps_);
  } catch (...) {
    resume();
    throw;
  }
  try {
    site_.main_rsp = tracees_.front()->registers().rsp;
    for (const auto& thread : tracees_) {
      remotes_.push_back(std::make_unique<RemoteSyscall>(*thread, site_));
      pointers_.push_back(remotes_.back().get());
      remotes_.back()->own_registers();  // notes what our stop has interrupted, to be undone by resume()
    }
  } catch (...) {
    resume();
    throw;
  }
}

void StoppedProcess::finish_calls() {
  for (const auto& remote : remotes_) remote->finish();
}

void StoppedProcess::resume() {
  pointers_.clear();
  remotes_.clear();
  tracees_.clear();
  if (resumed_at_ == Clock::time_point{}) resumed_at_ = Clock::now();
}

void StoppedProcess::stop_on_resume() {
  if (::syscall(SYS_pidfd_send_signal, pid_fd_.get(), SIGSTOP, nullptr, 0) < 0)
    fail_errno("{}: SIGSTOP", pid_);
}

void StoppedProcess::kill() {
  if (::syscall(SYS_pidfd_send_signal, pid_fd_.get(), SIGKILL, nullptr, 0) < 0 && errno != ESRCH) {
    fail_errno("{}: SIGKILL", pid_);
  }
  // Each end is reported to us first; only when all threads have gone the parent hears of it.
  for (const auto& thread : tracees_) {
    if (thread->tid() == pid_) continue;
    while (::waitpid(thread->tid(), nullptr, __WALL) < 0 && errno == EINTR) {
    }
  }
  // For a tracer that is the parent too, a plain wait would take the exit status away from whoever waits for
  // the child.
  siginfo_t info{};
  while (::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOWAIT | __WALL) < 0 && errno == EINTR) {
  }
  const std::string status = read_or_empty(proc_dir_.get(), "status");
  if (!status.empty() && parse_status(status, pid_).ppid != ::getpid())
    ::waitpid(pid_, nullptr, __WALL | WNOHANG);
  resume();
}

uint64_t StoppedProcess::stop_ns() const {
  if (stopped_at_ == Clock::time_point{}) return 0;
  const auto end = resumed_at_ == Clock::time_point{} ? Clock::now() : resumed_at_;
  return static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(end - stopped_at_).count());
}

}  // namespace ckpt
