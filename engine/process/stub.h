// The resume's side of a process that is being made: the stub under the old pid, traced, with remote system calls,
// its threads, and descriptors passed to it.
//
//   Stub stub(1234, false);                          // runs under pid 1234, traced and stopped, no descriptor open
//   stub.use_helper(RemotePtr{0x7f0000000000});      // where neither the stub nor the image has a mapping
//   stub.leader().call("setsid", SYS_setsid);
//   StubThread& second = stub.add_thread(1235);
//   ...                                              // anything thrown from here to release(): killed and reaped
//   stub.release(false);
//
// A family of them (process/stub_tree.h) is made by the first, each by its parent.
//
// Everything must be called by the thread that made the Stub (ptrace(2) knows tracers by thread). When that thread
// or the whole daemon dies before release(), the kernel kills the process (PTRACE_O_EXITKILL).
#pragma once

#include <linux/sched.h>
#include <sys/user.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/base/fd.h"
#include "engine/process/remote.h"
#include "engine/process/spawn.h"

namespace ckpt {

class Stub;

/// One thread of the process; stopped whenever no system call of it runs.
class StubThread : public Remote {
 public:
  StubThread(Stub& stub, pid_t tid) : stub_(stub), tid_(tid) {}
  pid_t pid() const override;
  pid_t tid() const override { return tid_; }
  long syscall(long nr, uint64_t a = 0, uint64_t b = 0, uint64_t c = 0, uint64_t d = 0, uint64_t e = 0,
               uint64_t f = 0) override;
  /// Once the helper is mapped, by a loop in it. A pending SIGCONT of the process is lost by that.
  std::vector<long> run_all(std::span<const SystemCall> calls) override;
  void read(RemotePtr from, std::span<std::byte> to) override;
  void write(RemotePtr to, std::span<const std::byte> from) override;
  RemotePtr scratch() const override;
  size_t scratch_size() const override;

  /// Makes the kernel give the thread room for the tiles of AMX, which it does at their first use only (XFD, see
  /// arch/x86/kernel/fpu/xstate.c): before that PTRACE_SETREGSET takes none. The process must be permitted to use them,
  /// and the helper be mapped.
  void use_tiles();

 private:
  friend class Stub;
  Stub& stub_;
  pid_t tid_;
};

/// Two or more CPUs make a remote call five times slower than one: while this lives, the calling thread and the stubs'
/// threads share one CPU. Threads started meanwhile, here or there, inherit it: keep it away from thread pools.
class CpuPin {
 public:
  explicit CpuPin(std::vector<const Stub*> stubs);
  explicit CpuPin(const Stub& stub) : CpuPin(std::vector<const Stub*>{&stub}) {}
  CpuPin(const CpuPin&) = delete;
  CpuPin& operator=(const CpuPin&) = delete;
  ~CpuPin();
  /// The end of this object leaves the stubs' threads where they are: something else gives them their CPUs.
  void leave_stubs() { stubs_stay_ = true; }

 private:
  void set(const std::vector<unsigned long>& mask) const;
  const std::vector<const Stub*> stubs_;
  std::vector<unsigned long> saved_;
  bool stubs_stay_ = false;
};

/// A descriptor here and the number it gets there.
struct Placement {
  int local = -1;
  int number = -1;
  bool cloexec = false;
};

class Stub {
 public:
  static constexpr size_t kHelperSize = 6 * 4096;   ///< a page of code, one of system calls, four of scratch

  /// Makes the process and stops it. Errors: those of SpawnedStub; EPERM where it cannot be traced.
  Stub(pid_t pid, bool as_child);
  /// The same by clone3(2) of a thread of another stub, as its child, or with CLONE_PARENT in `flags` as its sibling. It has
  /// what `flags` say in common with the other, and a copy of the rest: with CLONE_VM, see share_helper(). Errors: EEXIST, EPERM, EINVAL as above.
  Stub(StubThread& maker, pid_t pid, uint64_t flags, int exit_signal);
  Stub(const Stub&) = delete;
  Stub& operator=(const Stub&) = delete;
  /// Unless released: kills the process and leaves nothing of it.
  ~Stub();

  pid_t pid() const { return pid_; }
  int pid_fd() const { return pid_fd_.get(); }
  int mem_fd() const { return mem_.get(); }          ///< /proc/PID/mem, read and write
  StubThread& leader() { return *threads_.front(); }
  bool alive() const { return alive_; }
  const std::vector<std::unique_ptr<StubThread>>& threads() const { return threads_; }

  /// Maps the helper pages (code and scratch) at `at`; everything else may be unmapped afterwards.
  void use_helper(RemotePtr at);
  RemotePtr helper() const { return helper_; }
  /// Takes the helper of the stub whose memory this one shares, once that is mapped. The owner must be the last of them to
  /// be made ready, since it unmaps the helper.
  void share_helper(const Stub& owner);

  /// Starts a thread under a chosen tid. It is stopped before its first instruction. Errors: EEXIST, EPERM.
  StubThread& add_thread(pid_t tid);

  /// Puts descriptors at their numbers. `to` in ascending order of numbers, none of which is open there.
  void place(std::span<const Placement> to);
  /// Puts duplicates of local descriptors at the lowest free numbers and returns these, close-on-exec, ascending.
  std::vector<int> give(std::span<const int> local);
  int give(int local) { return give(std::span<const int>(&local, 1)).front(); }
  /// Opens the way that place() and give() use; its descriptor in the process is `number` or the next free above.
  /// `spare`: how many more descriptors there will be at once.
  void open_channel(int number, size_t spare = 0);
  void close_channel();

  /// The child is made init's (or stays ours, as_child). To be called once, after the last thing that is likely to
  /// fail: from here on a failure leaves it to init to reap.
  void hand_over();
  /// Unmaps the helper from itself, sets every thread's registers by `apply` while it stands at the end of a system
  /// call, and lets go. `stopped`: with SIGSTOP pending, so that no instruction runs.
  template <typename Apply>
  void release(bool stopped, Apply&& apply) {
    make_ready(apply);
    let_go(stopped);
  }
  /// The two halves of release(): nothing runs before the second, which does not fail any more.
  template <typename Apply>
  void make_ready(Apply&& apply) {
    for (size_t i = 1; i < threads_.size(); ++i) apply(*threads_[i]);
    drop_helper();
    apply(leader());
  }
  void let_go(bool stopped) noexcept;
  /// Makes the process end, with a status as wait(2) tells it (but without a core), and takes note as its tracer: it is
  /// then a zombie that its parent has been told of. Throws Error.
  void end(int wait_status);

 private:
  friend class StubThread;
  long clone(StubThread& by, const clone_args& args, pid_t tid);
  long run(pid_t tid, RemotePtr code, long nr, const uint64_t (&args)[6]);
  void wait_syscall_stop(pid_t tid, int op);
  void run_loop(pid_t tid, RemotePtr end);
  int wait_stop(pid_t tid);
  void find_gadget();
  void take_addresses(const Stub& like);
  void drop_helper();
  void kill() noexcept;
  std::vector<int> receive(std::span<const int> local);

  pid_t pid_;
  std::unique_ptr<SpawnedStub> spawned_;   // none where another stub has made it
  UniqueFd pid_fd_;
  UniqueFd mem_;
  std::vector<std::unique_ptr<StubThread>> threads_;
  user_regs_struct base_ = {};      // registers of every remote call but the arguments
  RemotePtr gadget_;                // a system call instruction
  RemotePtr helper_;
  RemotePtr scratch_;
  size_t scratch_size_ = 0;
  UniqueFd channel_;                // our end
  int remote_channel_ = -1;         // the stub's
  bool alive_ = true;               // there is something to be killed
  bool borrows_helper_ = false;     // another stub's, with which this one shares its memory
};

}  // namespace ckpt
