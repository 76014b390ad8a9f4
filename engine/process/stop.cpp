#include "engine/process/stop.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <optional>

#include "engine/base/error.h"
#include "engine/process/death_watch.h"
#include "engine/process/restart.h"
#include "engine/process/vfork.h"
#include "engine/process/xsave_layout.h"

namespace ckpt {
namespace {

using Clock = std::chrono::steady_clock;

// What a thread makes is ours from birth: or one that ends when it has made the next would be chased for ever. And an exec
// of it is told: another thread has the id of the main thread then.
constexpr unsigned kOptions = PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC;

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
  find_code();
  // Once only: a process that makes threads faster than they are seized would never be done with. stop() finds the rest.
  seize_new_threads();
  if (tracees_.empty()) check_alive();
}

StoppedProcess::~StoppedProcess() { resume(); }

// Slow the first time, and in a process not seen before (a search through libc), so it is done while the process runs. In the middle of an
// exec there is no code at all: the stop looks again.
void StoppedProcess::find_code() {
  xsave_layout();
  try {
    site_ = find_injection_site(pid_, parse_mappings(read_file(proc_dir_.get(), "maps")));
  } catch (const Error& e) {
    if (e.err() != EOPNOTSUPP) throw;
  }
  site_.seccomp = read_status(pid_).seccomp != 0;
}

Tracee* StoppedProcess::find(pid_t tid) const {
  const auto it = std::find_if(tracees_.begin(), tracees_.end(), [tid](const auto& t) { return t->tid() == tid; });
  return it == tracees_.end() ? nullptr : it->get();
}

// With no thread of it to be found: perhaps they were just ended by an exec of another one.
void StoppedProcess::check_alive() const {
  pollfd end = {pid_fd_.get(), POLLIN, 0};
  if (::poll(&end, 1, 0) != 0) fail(ESRCH, "{}: the process has ended", pid_);
}

void StoppedProcess::fail_main_thread_ended() const {
  fail(EOPNOTSUPP, "{}: its main thread has ended while others go on, which cannot be checkpointed", pid_);
}

// The list of tasks may lack a thread: it ends early where the one just listed dies (next_tid() in fs/proc/base.c). The
// number of links of the directory counts them all (proc_task_getattr() there): those that we hold do not end.
bool StoppedProcess::holds_all_threads() const {
  struct stat st {};
  if (::fstatat(proc_dir_.get(), "task", &st, 0) != 0) fail(ESRCH, "{}: the process has ended", pid_);
  return st.st_nlink == tracees_.size() + 2;
}

// Seizes the threads that are not yet ours; true if there were any.
bool StoppedProcess::seize_new_threads() {
  std::vector<pid_t> ours;
  for (const auto& thread : tracees_) ours.push_back(thread->tid());
  std::sort(ours.begin(), ours.end());
  std::vector<pid_t> fresh = list_tasks(proc_dir_.get());
  std::erase_if(fresh, [&](pid_t tid) { return std::binary_search(ours.begin(), ours.end(), tid); });
  if (fresh.empty()) return false;
  std::optional<DeathWatch> watch;
  if (fresh.size() + ours.size() > 1) watch.emplace(proc_dir_.get(), pid_);
  bool any = false;
  for (const pid_t tid : fresh) any |= (!ours.empty() && take_if_ours(tid)) || seize(tid);
  return any;
}

// One that is seized already: by birth, its maker having been killed before it could tell; or by a PTRACE_SEIZE that has
// waited for the end of an exec, and thus met the thread under the id of the main thread.
bool StoppedProcess::take_if_ours(pid_t tid) {
  const std::string text = read_or_empty(proc_dir_.get(), fmt::format("task/{}/status", tid));
  if (text.empty() || parse_status(text, tid).tracer != ::gettid()) return false;
  tracees_.push_back(std::make_unique<Tracee>(pid_, tid, kOptions, Tracee::Ours{}));
  return true;
}

// False where it has ended meanwhile; true where it is ours.
bool StoppedProcess::seize(pid_t tid) {
  constexpr int kTries = 100;
  for (int tries = 0;; ++tries) {
    try {
      tracees_.push_back(std::make_unique<Tracee>(pid_, tid, kOptions));
      return true;
    } catch (const Error& e) {
      if (e.err() == ESRCH) return false;
      if (e.err() != EPERM) throw;
      if (take_if_ours(tid)) return true;
      const std::string text = read_or_empty(proc_dir_.get(), fmt::format("task/{}/status", tid));
      if (text.empty()) return false;
      const ProcStatus status = parse_status(text, tid);
      const bool ended = status.state == 'Z' || status.state == 'X';
      if (ended && (tid != pid_ || status.threads <= 1)) return false;
      if (!ended && status.tracer != 0) {
        fail(EBUSY, "{}: thread {} is traced already, by process {}", pid_, tid, status.tracer);
      }
      // In an exec of another thread, the main thread has ended for a moment: that thread then is the main thread.
      if (tries < kTries) {
        const timespec moment = {0, 100'000};
        ::nanosleep(&moment, nullptr);
        continue;
      }
      if (!ended) throw;
      fail_main_thread_ended();
    }
  }
}

// Takes what the threads have made since they were seized; true if there was anything.
bool StoppedProcess::take_born_threads(Clock::time_point deadline) {
  std::vector<pid_t> born;
  for (const auto& thread : tracees_) {
    for (const pid_t tid : thread->take_born()) born.push_back(tid);
  }
  for (const pid_t tid : born) {
    if (find(tid) != nullptr) continue;
    auto thread = std::make_unique<Tracee>(pid_, tid, kOptions, Tracee::Ours{});
    if (::faccessat(proc_dir_.get(), fmt::format("task/{}", tid).c_str(), F_OK, 0) == 0) {
      tracees_.push_back(std::move(thread));
    } else {
      thread->wait_stop(deadline);  // a process of its own: let go
    }
  }
  return !born.empty();
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

void StoppedProcess::wait_for(Tracee& thread, Clock::time_point deadline, const std::atomic<bool>* cancel) {
  constexpr int kLooks = 50;
  // Its child needs a few milliseconds, or will not be done soon.
  const Clock::time_point in_vfork = Clock::now() + std::chrono::seconds(1);
  int ended = 0;
  std::chrono::milliseconds pause{2};
  for (; !thread.wait_stop(std::min(deadline, Clock::now() + pause)); pause = std::chrono::milliseconds(20)) {
    reap_ended_threads(proc_dir_.get(), pid_);  // or an exec never ends: see DeathWatch
    thread.look_again();
    if (cancel != nullptr && cancel->load()) fail(EINTR, "{}: the checkpoint was cancelled", pid_);
    // Its end is not reported before that of the others, which we hold; in an exec of one of them it lasts a moment.
    if (thread.tid() == pid_ && tracees_.size() > 1) {
      const std::string status = read_or_empty(proc_dir_.get(), "status");
      if (!status.empty() && parse_status(status, pid_).state == 'Z' && ++ended == kLooks) fail_main_thread_ended();
    }
    const bool late = Clock::now() >= in_vfork && waits_in_vfork(proc_dir_.get(), thread.tid());
    if (late || Clock::now() >= deadline) fail_unstoppable(thread);
  }
}

void StoppedProcess::leave_vdso(Tracee& thread, Clock::time_point deadline, const std::atomic<bool>* cancel) {
  constexpr int kTurns = 40;
  constexpr std::chrono::microseconds kMoment{15};
  const auto vdso = std::find_if(site_.mappings.begin(), site_.mappings.end(),
                                 [](const Mapping& m) { return m.path == "[vdso]"; });
  if (vdso == site_.mappings.end()) return;
  for (int turn = 0; turn < kTurns && thread.stopped() && !thread.group_stopped(); ++turn) {
    const uint64_t ip = thread.registers().rip;
    if (ip < vdso->start || ip >= vdso->end) return;
    thread.go_on();
    // Long enough for it to be on its CPU again; a sleep would be several times as long. But it may want ours.
    const auto until = Clock::now() + kMoment;
    if (turn % 4 == 3) sleep_briefly(10'000);
    while (Clock::now() < until) {
    }
    thread.interrupt();
    wait_for(thread, deadline, cancel);
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
    // A running thread may make another one, or execute another program, until it stops itself.
    const auto deadline = stopped_at_ + limit;
    for (bool asked = true;; asked = false) {
      for (const auto& thread : tracees_) {
        if (!asked) thread->interrupt();
      }
      for (const auto& thread : tracees_) wait_for(*thread, deadline, cancel);
      for (const auto& thread : tracees_) {
        if (outside_vdso_) leave_vdso(*thread, deadline, cancel);
      }
      bool more = take_born_threads(deadline);
      std::erase_if(tracees_, [](const auto& t) { return t->gone(); });
      more |= seize_new_threads() || !holds_all_threads();
      // Last: as long as the main thread stands where it stood, no thread has made an exec, which would have ended others.
      Tracee* const leader = find(pid_);
      if (leader != nullptr && leader->look_again() && !more) break;
      for (const auto& thread : tracees_) thread->look_again();
      std::erase_if(tracees_, [](const auto& t) { return t->gone(); });
      if (tracees_.empty()) check_alive();
      if (Clock::now() >= deadline) fail(EBUSY, "{}: it makes threads faster than they can be stopped", pid_);
    }
    std::sort(tracees_.begin(), tracees_.end(),
              [](const auto& a, const auto& b) { return a->tid() < b->tid(); });
    const auto leader =
        std::find_if(tracees_.begin(), tracees_.end(), [this](auto& t) { return t->tid() == pid_; });
    std::rotate(tracees_.begin(), leader, leader + 1);
    maps_ = read_file(proc_dir_.get(), "maps");
    std::vector<Mapping> mappings = parse_mappings(maps_);
    if (holds_code(pid_, site_)) {
      site_.mappings = std::move(mappings);
    } else {
      const auto has_code = [](const Mapping& m) { return m.executable && m.path.starts_with('/'); };
      if (std::none_of(mappings.begin(), mappings.end(), has_code)) {
        fail(EBUSY, "{}: it is just executing another program", pid_);
      }
      const bool seccomp = site_.seccomp;   // an exec does not end it
      site_ = find_injection_site(pid_, std::move(mappings));
      site_.seccomp = seccomp;
    }
  } catch (...) {
    resume();
    throw;
  }
  try {
    for (const auto& thread : tracees_) refuse_dispatch(*thread);
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

// Calls of ours would be dispatched too, and a signal for them kills who has blocked it.
void StoppedProcess::refuse_dispatch(const Tracee& thread) const {
  constexpr int kGetConfiguration = 0x4211;  // PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, Linux 6.4
  struct {
    uint64_t mode = 0, selector = 0, offset = 0, length = 0;
  } dispatch;
  if (::ptrace(static_cast<__ptrace_request>(kGetConfiguration), thread.tid(), sizeof dispatch, &dispatch) != 0) return;
  if (dispatch.mode == 0) return;
  fail(EOPNOTSUPP, "{}: thread {} has its system calls dispatched to itself (PR_SET_SYSCALL_USER_DISPATCH), which is not "
       "supported", pid_, thread.tid());
}

void StoppedProcess::finish_calls() {
  for (const auto& remote : remotes_) remote->finish();
}

void StoppedProcess::resume() {
  // Those that a stop has met which failed before it was complete.
  for (size_t i = remotes_.size(); i < tracees_.size(); ++i) {
    try {
      if (tracees_[i]->stopped()) undo_our_stop(*tracees_[i]);
    } catch (const Error&) {
      // It has been killed.
    }
  }
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
