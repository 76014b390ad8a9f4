// A whole process held still.
//
//   StoppedProcess process(1234);          // seizes every thread: 36 us, the process runs on
//   process.stop(cancel);                  // all threads stand still: 15 us for one thread, 2 ms for 256
//   process.leader().call("brk", SYS_brk, 0);
//   process.resume();                      // or the destructor: it goes on, whatever happened
//
// All calls come from one thread (ptrace's rule), and this thread should end soon after: a thread of the
// process that could not be stopped in time stays seized until its tracer's thread ends.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "engine/base/fd.h"
#include "engine/process/remote_syscall.h"
#include "engine/process/tracee.h"

namespace ckpt {

class StoppedProcess {
 public:
  /// Seizes the threads of the process. Throws Error: ESRCH, EPERM, EBUSY (traced by somebody: the sentence
  /// names him), EOPNOTSUPP (its main thread has ended).
  explicit StoppedProcess(pid_t pid);
  ~StoppedProcess();
  StoppedProcess(const StoppedProcess&) = delete;
  StoppedProcess& operator=(const StoppedProcess&) = delete;

  pid_t pid() const { return pid_; }

  /// Asks every thread that is known to stop, and does not wait: so that several processes stop at the same time, each of
  /// which is then waited for by stop().
  void interrupt();
  /// Stops every thread, those born meanwhile too. Throws Error: EBUSY naming a thread that does not stop
  /// within `limit`, EINTR when `cancel` is set, ESRCH; the process goes on then.
  void stop(const std::atomic<bool>* cancel = nullptr,
            std::chrono::milliseconds limit = std::chrono::seconds(10));

  /// The same, but with no thread inside the vDSO, whose code and data differ under another kernel. A thread found
  /// there is let run on for a moment and stopped again: reading a clock takes 30 ns, so one that does nothing else is
  /// out of it after a few turns. (Single steps would be certain, but kill the process if we die between two.) One
  /// that is inside at every look, or in a job-control stop, stays where it is: the image then resumes under the same
  /// kernel only.
  void stop_outside_vdso(const std::atomic<bool>* cancel = nullptr);

  /// One a thread, the main thread first, then by tid. Owned here, valid until resume().
  const std::vector<Remote*>& remotes() const { return pointers_; }
  const std::vector<std::unique_ptr<RemoteSyscall>>& threads() const { return remotes_; }
  RemoteSyscall& leader() { return *remotes_.front(); }

  /// /proc/PID/maps as of the stop (before any call of ours changed it).
  const std::string& maps() const { return maps_; }
  /// Whether a job-control stop holds it, so that it will be stopped after resume() too.
  bool group_stopped() const { return tracees_.front()->group_stopped(); }

  /// Puts back what was borrowed for system calls, in all threads. The process stays stopped.
  void finish_calls();
  /// Everything put back, and the process goes on. Idempotent.
  void resume();
  /// Ends the process with SIGKILL and waits until it has gone (it may be its parent's zombie then).
  void kill();
  /// Makes resume() leave it in a job-control stop (SIGSTOP).
  void stop_on_resume();

  /// How long it was stopped, in nanoseconds: from the first interrupt to the end of resume(), or to now.
  uint64_t stop_ns() const;

 private:
  void find_code();
  Tracee* find(pid_t tid) const;
  void check_alive() const;
  bool holds_all_threads() const;
  bool seize_new_threads();
  void refuse_dispatch(const Tracee& thread) const;
  bool take_if_ours(pid_t tid);
  bool seize(pid_t tid);
  bool take_born_threads(std::chrono::steady_clock::time_point deadline);
  void wait_for(Tracee& thread, std::chrono::steady_clock::time_point deadline, const std::atomic<bool>* cancel);
  void leave_vdso(Tracee& thread, std::chrono::steady_clock::time_point deadline, const std::atomic<bool>* cancel);
  [[noreturn]] void fail_unstoppable(const Tracee& thread) const;
  [[noreturn]] void fail_main_thread_ended() const;

  pid_t pid_;
  UniqueFd proc_dir_;
  UniqueFd pid_fd_;
  InjectionSite site_;
  bool outside_vdso_ = false;
  std::string maps_;
  std::vector<std::unique_ptr<Tracee>> tracees_;  // sorted: main thread first
  std::vector<std::unique_ptr<RemoteSyscall>> remotes_;
  std::vector<Remote*> pointers_;
  std::chrono::steady_clock::time_point stopped_at_{}, resumed_at_{};
};

}  // namespace ckpt
