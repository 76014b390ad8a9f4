#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>

#include <chrono>
#include <condition_variable>
#include <exception>
#include <map>
#include <mutex>
#include <thread>
#include <tuple>

#include "engine/answer.h"
#include "engine/base/error.h"
#include "engine/checkpoint_checks.h"
#include "engine/engine.h"
#include "engine/kinds/kind.h"
#include "engine/kinds/process_room.h"
#include "engine/kinds/registers.h"
#include "engine/memory/capture_memory.h"
#include "engine/memory/layout.h"
#include "engine/memory/snapshot.h"
#include "engine/memory_table.h"
#include "engine/process/proc_status.h"
#include "engine/process/procfs.h"
#include "engine/process/stop.h"

namespace ckpt {
namespace {

using Clock = std::chrono::steady_clock;

// ---- one checkpoint at a time for each process ----

std::mutex captured_lock;
std::condition_variable captured_changed;
std::map<pid_t, bool> captured;  // guarded by captured_lock; tgid -> whether it is still touched

void set_touched(pid_t pid, bool touched) {
  const std::lock_guard guard(captured_lock);
  captured[pid] = touched;
}

class CaptureTurn {
 public:
  /// Waits for another checkpoint of the process to end.
  CaptureTurn(pid_t pid, const CancelFlag* cancel) : pid_(pid) {
    std::unique_lock guard(captured_lock);
    while (captured.count(pid) != 0) {
      if (cancel != nullptr && cancel->load()) fail(EINTR, "{}: the checkpoint was cancelled", pid);
      // A cancel flag wakes nobody: look at it now and then.
      captured_changed.wait_for(guard, std::chrono::milliseconds(20));
    }
    captured[pid] = true;
  }
  ~CaptureTurn() {
    const std::lock_guard guard(captured_lock);
    captured.erase(pid_);
    captured_changed.notify_all();
  }
  CaptureTurn(const CaptureTurn&) = delete;
  CaptureTurn& operator=(const CaptureTurn&) = delete;

 private:
  pid_t pid_;
};

// ---- the capture of one process ----

class Capture {
 public:
  Capture(Store& store, pid_t pid, const Caller& caller, const CheckpointOptions& options)
      : store_(store),
        pid_(pid),
        caller_(caller),
        options_(options),
        proc_dir_(open_proc(pid)),
        memory_(pid, proc_dir_.get()) {
    pid_fd_.reset(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    if (!pid_fd_) fail_errno("{}: pidfd_open", pid);
  }

  /// `without`: see SnapshotTarget. Throws SnapshotLost, where another attempt with another strategy is due.
  CheckpointResult run(std::string_view without);
  bool process_ended() const {
    pollfd fd = {pid_fd_.get(), POLLIN, 0};
    return ::poll(&fd, 1, 0) > 0;
  }

 private:
  void check_cancel() const {
    if (options_.cancel != nullptr && options_.cancel->load())
      fail(EINTR, "{}: the checkpoint was cancelled", pid_);
  }
  void look_before_the_stop();
  void prepare_snapshot();
  void capture_stopped(StoppedProcess& process);
  void capture_proc_files(const StoppedProcess& process);
  void note_owner(const ProcStatus& status);
  void capture_memory_map();
  void read_pages();
  void release_snapshot();
  CheckpointResult commit(StoppedProcess& process);

  Store& store_;
  const pid_t pid_;
  const Caller& caller_;
  const CheckpointOptions& options_;
  UniqueFd proc_dir_;
  UniqueFd pid_fd_;
  ProcStatus status_;  // before the stop
  uid_t owner_uid_ = 0;
  gid_t owner_gid_ = 0;
  MemoryTable memory_;
  std::unique_ptr<ImageBuilder> image_;
  std::unique_ptr<Snapshot> snapshot_;
  std::map<std::string, std::string> objects_;
  std::vector<std::function<void()>> later_;
  uint64_t later_bytes_ = 0;
  uint64_t time_ns_ = 0;
};

void Capture::look_before_the_stop() {
  // Again, for the process that pid_fd_ holds: the pid may have become another's while we waited for our turn.
  check_may_checkpoint(caller_, pid_);
  if (process_ended()) fail(ESRCH, "{}: the process has ended", pid_);
  status_ = parse_status(read_file(proc_dir_.get(), "status"), pid_);
  refuse_process(pid_, proc_dir_.get(), status_);
  memory_.read();
  refuse_mappings(pid_, memory_.vmas());
  refuse_descriptors(pid_, read_fd_table(pid_, proc_dir_.get()));
}

void Capture::prepare_snapshot() {
  if (!snapshot_->wants_prepare_stop()) return;
  {
    StoppedProcess process(pid_);
    process.stop(options_.cancel);
    snapshot_->prepare(parse_maps(process.maps(), fmt::format("/proc/{}/maps", pid_)), process.leader());
  }
  check_cancel();
  snapshot_->arm(memory_.vmas());
}

// Our own tracing is not part of the image.
std::string untraced_status(std::string text, char state, bool group_stopped) {
  const auto replace = [&text](std::string_view name, std::string_view value) {
    const size_t at = text.find(name);
    if (at == std::string::npos) return;
    const size_t begin = at + name.size();
    text.replace(begin, text.find('\n', begin) - begin, value);
  };
  replace("\nState:", group_stopped ? "\tT (stopped)" : state == 'R' ? "\tR (running)" : "\tS (sleeping)");
  replace("\nTracerPid:", "\t0");
  return text;
}

void Capture::capture_proc_files(const StoppedProcess& process) {
  for (const char* name : {"cmdline", "environ", "auxv", "limits"})
    image_->put(name, read_file(proc_dir_.get(), name));
  for (const char* name : {"exe", "cwd", "root"}) image_->put_link(name, read_link(proc_dir_.get(), name));
  std::string status = read_file(proc_dir_.get(), "status");
  note_owner(parse_status(status, pid_));
  image_->put("status", untraced_status(std::move(status), status_.state, process.group_stopped()));
}

// Asked in the stop: before and after it the process may be another program with other rights. The image of a set-uid
// program, of one that has made itself unreadable (the files of such a process in /proc are root's too,
// task_dump_owner() in fs/proc/base.c), or of one with capabilities is root's: its user could not trace it.
void Capture::note_owner(const ProcStatus& status) {
  const auto rights = [](const ProcStatus& s) { return std::tie(s.uid, s.gid, s.cap_permitted); };
  if (rights(status) != rights(status_)) check_may_checkpoint(caller_, pid_);
  struct stat st {};
  const bool readable = ::fstatat(proc_dir_.get(), "maps", &st, 0) == 0 && st.st_uid == status.uid[1];
  const bool plain = status.uid[0] == status.uid[1] && status.uid[0] == status.uid[2] &&
                     status.gid[0] == status.gid[1] && status.gid[0] == status.gid[2] && status.cap_permitted == 0;
  owner_uid_ = readable && plain ? status.uid[0] : 0;
  owner_gid_ = readable && plain ? status.gid[0] : 0;
}

void Capture::capture_stopped(StoppedProcess& process) {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  time_ns_ = static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
  // First what any call of ours could change.
  for (const auto& thread : process.threads()) capture_registers(*image_, "", *thread);
  memory_.fix(process.maps());
  refuse_mappings(pid_, memory_.vmas());
  capture_proc_files(process);
  if (options_.answer_at != 0) capture_answer(*image_, "", options_.answer_at);

  CaptureContext ctx;
  ctx.pid = pid_;
  ctx.proc_dir = proc_dir_.get();
  ctx.pid_fd = pid_fd_.get();
  ctx.image = image_.get();
  ctx.leader = &process.leader();
  ctx.objects = &objects_;
  ctx.later = &later_;
  ctx.later_bytes = &later_bytes_;
  std::vector<uint64_t> exit_words;
  ctx.exit_words = &exit_words;
  const std::vector<OpenFd> fds = read_fd_table(pid_, proc_dir_.get());
  refuse_descriptors(pid_, fds);  // it may have opened something since
  capture_descriptors(ctx, fds);
  capture_rooms(ctx, process.remotes());
  capture_shared_mappings(ctx, memory_.vmas());
  capture_mm(ctx, memory_.vmas());
  check_cancel();
  // The borrowed bytes of stacks go back before the instant is fixed.
  process.finish_calls();
  snapshot_->spare(std::move(exit_words));
  snapshot_->fix(memory_.vmas(), process.leader());
  process.finish_calls();
}

void Capture::read_pages() {
  try {
    capture_memory(*snapshot_, memory_.vmas(), *image_, "", options_.cancel);
  } catch (const Error& error) {
    if (error.err() == EINTR) check_cancel();  // says of which process
    throw;
  }
}

void Capture::capture_memory_map() {
  memory_.complete();
  refuse_mappings(pid_, memory_.vmas());
  image_->put("maps", memory_.maps());
  image_->put("smaps", memory_.smaps());
}

void Capture::release_snapshot() {
  if (!snapshot_->wants_release_stop()) {
    snapshot_->release(nullptr);
    return;
  }
  try {
    StoppedProcess process(pid_);
    process.stop();
    snapshot_->release(&process.leader());
  } catch (const Error&) {
    // It has ended, or cannot be stopped now: what is left goes with our descriptors.
    snapshot_->release(nullptr);
  }
}

ManifestHeader make_header(pid_t pid, const ProcStatus& status) {
  utsname uts{};
  ::uname(&uts);
  ManifestHeader header;
  header.machine = uts.machine;
  header.kernel = uts.release;
  header.hostname = uts.nodename;
  header.engine = "ptrace";
  header.xfeatures = xsave_features();
  header.pid = pid;
  header.pids = {pid};
  header.command = status.name;
  return header;
}

CheckpointResult Capture::commit(StoppedProcess& process) {
  check_cancel();
  ManifestHeader header = make_header(pid_, status_);
  header.uid = owner_uid_;
  header.gid = owner_gid_;
  header.time_ns = time_ns_;
  header.stop_ns = process.stop_ns();
  image_->write_manifest(header);
  CheckpointResult result;
  result.name = options_.name.empty() ? std::to_string(pid_) : options_.name;
  const auto stored = image_->commit(result.name);
  result.stop_ns = header.stop_ns;
  result.logical_bytes = stored->info().logical_bytes;
  return result;
}

CheckpointResult Capture::run(std::string_view without) {
  const bool goes_on = options_.after == AfterCapture::go_on;
  set_touched(pid_, true);
  look_before_the_stop();
  image_ = store_.begin_image(fmt::format("checkpoint of {}", pid_));
  snapshot_ = choose_snapshot({.pid = pid_, .stays_stopped = !goes_on, .without = without}, memory_.vmas());
  prepare_snapshot();
  check_cancel();

  StoppedProcess process(pid_);
  process.stop_outside_vdso(options_.cancel);
  capture_stopped(process);
  if (snapshot_->needs_stop()) read_pages();
  if (goes_on) process.resume();
  try {
    if (!snapshot_->needs_stop()) read_pages();
    for (const auto& work : later_) work();
    capture_memory_map();
  } catch (...) {
    if (goes_on) release_snapshot();
    throw;
  }
  if (goes_on)
    release_snapshot();
  else
    snapshot_->release(&process.leader());
  set_touched(pid_, !goes_on);

  const CheckpointResult result = commit(process);
  if (options_.after == AfterCapture::exit) process.kill();
  if (options_.after == AfterCapture::stop) process.stop_on_resume();
  return result;
}

CheckpointResult capture_with_retries(Store& store, pid_t pid, const Caller& caller, const CheckpointOptions& options) {
  constexpr int kExecs = 10;
  std::string without;
  for (int execs = 0;;) {
    Capture capture(store, pid, caller, options);
    try {
      return capture.run(without);
    } catch (const SnapshotLost&) {
      // The process has undone what the strategy stood on: the next one. "copy" needs nothing.
      if (without == "fork") throw;
      without = without.empty() ? "write-protect" : "fork";
    } catch (const Error& e) {
      // Whatever file of /proc it was that could not be read any more.
      if (capture.process_ended()) fail(ESRCH, "{}: the process has ended ({})", pid, e.sentence());
      // Another thread than the main one has executed a program, and has its id now.
      if (e.err() != ESRCH || ++execs > kExecs) throw;
    }
  }
}

}  // namespace

bool being_captured(pid_t tgid) {
  const std::lock_guard guard(captured_lock);
  const auto it = captured.find(tgid);
  return it != captured.end() && it->second;
}

CheckpointResult checkpoint(Store& store, pid_t pid, const Caller& caller, const CheckpointOptions& options) {
  const auto start = Clock::now();
  check_may_checkpoint(caller, pid);
  if (!options.name.empty() && !valid_image_name(options.name)) {
    fail(EINVAL, "{}: '{}' cannot be the name of an image", pid, options.name);
  }
  const CaptureTurn turn(pid, options.cancel);
  CheckpointResult result;
  std::exception_ptr error;
  // A tracer is a thread: when it ends, whatever it still traces goes on.
  std::thread tracer([&] {
    try {
      result = capture_with_retries(store, pid, caller, options);
    } catch (...) {
      error = std::current_exception();
    }
  });
  tracer.join();
  if (error) std::rethrow_exception(error);
  result.total_ns = static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start).count());
  return result;
}

}  // namespace ckpt
