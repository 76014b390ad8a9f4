// resume(): an image becomes the process again that it was taken of.
//
//   1. everything is parsed, checked and opened, in this process, with the rights of the caller      (Plan)
//   2. the stub under the old pid; its descriptors; its address space; the pages; the threads        (Rebuild)
//   3. what the kernel keeps for process and threads (rooms), then registers, and go
//
// Until the very last step an error kills the stub and leaves nothing; so does the death of this process.
#include "engine/engine.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/utsname.h>

#include <chrono>
#include <exception>
#include <map>
#include <thread>

#include "engine/answer.h"
#include "engine/base/error.h"
#include "engine/image/manifest.h"
#include "engine/kinds/credentials.h"
#include "engine/kinds/kind.h"
#include "engine/kinds/process_room.h"
#include "engine/kinds/registers.h"
#include "engine/kinds/scheduling.h"
#include "engine/kinds/signals.h"
#include "engine/memory/fill.h"
#include "engine/memory/layout.h"
#include "engine/process/as_caller.h"
#include "engine/process/proc_status.h"
#include "engine/process/procfs.h"
#include "engine/process/stub.h"
#include "libckpt/ckpt.h"

namespace ckpt {

namespace {

constexpr uint64_t kMaxPid = 1 << 22;          // PID_MAX_LIMIT
constexpr size_t kMaxThreads = 1 << 16;

struct PlannedThread {
  pid_t tid = 0;
  RestoredRegisters registers;
  uint64_t signal_mask = 0;
};

/// All of an image that can be known before anything is made.
struct Plan {
  ManifestHeader header;
  std::vector<PlannedThread> threads;          // the main thread first
  Layout layout;
  bool was_stopped = false;                    // by job control
  bool own_group = false;                      // it led a process group
};

class Resume {
 public:
  Resume(const ImageSource& image, const Caller& caller, const ResumeOptions& options)
      : image_(image), options_(options), where_(image.describe()) {
    ctx_.image = &image;
    ctx_.caller = caller;
    ctx_.objects = &objects_;
    ctx_.undo = &undo_;
  }

  pid_t run();

 private:
  void check_cancel() const {
    if (options_.cancel != nullptr && options_.cancel->load()) fail(EINTR, "{}: the resume was cancelled", where_);
  }
  void read_header();
  void read_threads();
  void read_status();
  void check_root();
  void wait_for_pid() const;
  void place_descriptors(Stub& stub, RestoredFds& fds, size_t mapped_files);
  pid_t make();
  void take_back() noexcept;
  void join_session(Stub& stub);
  void take_terminal() const;
  void start_threads(Stub& stub);
  void let_go(Stub& stub);

  const ImageSource& image_;
  const ResumeOptions& options_;
  const std::string where_;
  std::map<std::string, UniqueFd> objects_;
  std::vector<std::function<void()>> undo_;
  UniqueFd root_;
  RestoreContext ctx_;
  Plan plan_;
};

void Resume::read_header() {
  const Manifest manifest = Manifest::parse(image_.read(kManifestName), where_);
  plan_.header = manifest.header;
  if (!plan_.header.memory) {
    fail(EOPNOTSUPP, "{}: holds registers and tables without memory (it was taken with cpu), and cannot be resumed", where_);
  }
  utsname uts = {};
  uname(&uts);
  if (plan_.header.machine != uts.machine) {
    fail(ENOEXEC, "{}: was taken on another architecture ({}; this is {})", where_, plan_.header.machine, uts.machine);
  }
  if (const uint64_t missing = plan_.header.xfeatures & ~xsave_features(); missing != 0) {
    fail(ENOEXEC, "{}: was taken on a CPU with XSAVE features that this one does not have ({:#x})", where_, missing);
  }
  if (plan_.header.pids.size() > 1) {
    fail(EOPNOTSUPP, "{}: holds {} processes; resuming more than one is not supported yet", where_,
         plan_.header.pids.size());
  }
  if (plan_.header.pid <= 1 || static_cast<uint64_t>(plan_.header.pid) > kMaxPid) {
    fail(EINVAL, "{}: {} cannot be the pid of a process", where_, plan_.header.pid);
  }
  ctx_.pid = plan_.header.pid;
}

void Resume::read_threads() {
  const std::string dir = ctx_.prefix + "threads";
  std::vector<pid_t> tids = {ctx_.pid};
  for (const ImageEntry& entry : image_.below(dir)) {
    const std::string name = entry.path.substr(dir.size() + 1);
    const auto tid = parse_u64(name);
    if (!tid || *tid < 2 || *tid > kMaxPid || std::to_string(*tid) != name) {
      fail(EINVAL, "{}: {} is not the id of a thread", where_, entry.path);
    }
    if (static_cast<pid_t>(*tid) != ctx_.pid) tids.push_back(static_cast<pid_t>(*tid));
    if (tids.size() > kMaxThreads) fail(EINVAL, "{}: more than {} threads", where_, kMaxThreads);
  }
  for (const pid_t tid : tids) {
    const std::string path = fmt::format("{}/{}", dir, tid);
    const Record record = Record::parse(image_.read(path), where_ + ": " + path);
    check_may_resume(ctx_.caller, record);
    plan_.threads.push_back({tid, parse_registers(image_, ctx_.prefix, tid), recorded_signal_mask(record)});
  }
}

void Resume::read_status() {
  const std::string status = image_.read(ctx_.prefix + "status");
  plan_.was_stopped = status_field(status, "State").starts_with('T');
  plan_.own_group = status_field(status, "NSpgid") == std::to_string(ctx_.pid);
}

void Resume::check_root() {
  const std::string root = image_.read_link(ctx_.prefix + "root");
  if (root != "/" && !ctx_.caller.privileged()) {
    fail(EPERM, "{}: only root may resume a process in a chroot ({})", where_, root);
  }
  root_ = open_at(AT_FDCWD, root, O_PATH | O_DIRECTORY);
  ctx_.root_fd = root_.get();
}

// Who has just killed the old process copies its archive at once; its parent, or init, takes a moment to reap it.
void Resume::wait_for_pid() const {
  const auto patience = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  while (is_ending(ctx_.pid) && std::chrono::steady_clock::now() < patience) {
    check_cancel();
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

void Resume::place_descriptors(Stub& stub, RestoredFds& fds, size_t mapped_files) {
  int highest = -1;
  for (const RestoredFd& fd : fds.fds) highest = std::max(highest, fd.fd);
  stub.open_channel(highest + 1, mapped_files);
  complete_descriptors(ctx_, fds, stub.leader());
  std::vector<Placement> to;
  for (const RestoredFd& fd : fds.fds) {
    to.push_back({fds.files.at(static_cast<size_t>(fd.file)).get(), fd.fd, fd.cloexec});
  }
  std::sort(to.begin(), to.end(), [](const Placement& a, const Placement& b) { return a.number < b.number; });
  stub.place(to);
}

// Init's children lead a session of their own, whatever shell's job they were: that session is gone, or another's by
// now. A child of ours stays in our session, so that it keeps the terminal.
void Resume::join_session(Stub& stub) {
  if (!options_.as_child) {
    stub.leader().call("setsid", SYS_setsid);
  } else if (plan_.own_group) {
    stub.leader().call("setpgid", SYS_setpgid, 0, 0);
  }
}

// A group of its own on our terminal: in the foreground it must be, if we are.
void Resume::take_terminal() const {
  if (!options_.as_child || !plan_.own_group) return;
  for (const auto& [number, local] : options_.inherit) {
    // SIGTTOU is blocked in this thread.
    if (isatty(local) && tcgetpgrp(local) == getpgrp()) tcsetpgrp(local, ctx_.pid);
  }
}

void Resume::start_threads(Stub& stub) {
  for (size_t i = 1; i < plan_.threads.size(); ++i) stub.add_thread(plan_.threads[i].tid);
}

void Resume::let_go(Stub& stub) {
  // The main thread comes first here and there.
  for (size_t i = 0; i < plan_.threads.size(); ++i) {
    if (plan_.threads[i].registers.has_tiles()) stub.threads().at(i)->use_tiles();
  }
  stub.close_channel();
  restrict_layout(stub, plan_.layout);
  stub.hand_over();
  take_terminal();
  for (const auto& thread : stub.threads()) restore_affinity(ctx_, *thread);
  size_t next = 1;
  stub.release(options_.stopped || plan_.was_stopped, [&](StubThread& thread) {
    const bool is_leader = thread.tid() == ctx_.pid;
    const PlannedThread& planned = is_leader ? plan_.threads.front() : plan_.threads.at(next++);
    apply_registers(thread.tid(), planned.registers);
    if (ptrace(static_cast<__ptrace_request>(PTRACE_SETSIGMASK), thread.tid(), sizeof(planned.signal_mask),
               &planned.signal_mask) != 0) {
      fail_errno("{}: signal mask of thread {}", ctx_.pid, thread.tid());
    }
  });
}

void Resume::take_back() noexcept {
  for (auto work = undo_.rbegin(); work != undo_.rend(); ++work) (*work)();
}

pid_t Resume::run() {
  try {
    return make();
  } catch (...) {
    objects_.clear();
    take_back();
    throw;
  }
}

pid_t Resume::make() {
  read_header();
  read_status();
  read_threads();
  std::optional<LayoutFiles> files;
  RestoredFds fds;
  {
    const AsCaller rights(ctx_.caller);
    check_root();
    plan_.layout = parse_layout(ctx_);
    list_segments(image_, ctx_.prefix, plan_.layout.vmas);
    files.emplace(ctx_, plan_.layout);
    fds = restore_descriptors(ctx_, options_.inherit);
  }
  wait_for_pid();
  check_cancel();

  Stub stub(ctx_.pid, options_.as_child);
  ctx_.give = [&stub](int local) { return stub.give(local); };
  {
    const CpuPin pin(stub);
    place_descriptors(stub, fds, files->count());
    join_session(stub);
    build_layout(stub, plan_.layout, *files);
  }
  fill_memory(image_, ctx_.prefix, plan_.layout.vmas, stub.leader(), options_.cancel);
  check_cancel();

  // From here on the stub stays on one CPU until restore_affinity() gives each thread its own CPUs.
  CpuPin pin(stub);
  pin.leave_stub();
  finish_layout(stub, plan_.layout, *files);
  start_threads(stub);
  finish_descriptors(ctx_, fds, stub.leader());
  std::vector<Remote*> threads;
  for (const auto& thread : stub.threads()) threads.push_back(thread.get());
  restore_rooms(ctx_, threads);
  restore_answer(image_, ctx_.prefix, stub.leader(), options_.stopped ? CKPT_STOP : 0);
  // What is still open here would keep ends alive that the process closes.
  fds.files.clear();
  objects_.clear();
  let_go(stub);
  return ctx_.pid;
}

}  // namespace

ResumeResult resume(const ImageSource& image, const Caller& caller, const ResumeOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  ResumeResult result;
  std::exception_ptr error;
  // A tracer is a thread, and everything that the stub is made with (mask, affinity) is this thread's.
  std::thread tracer([&] {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, nullptr);
    try {
      result.pid = Resume(image, caller, options).run();
    } catch (...) {
      error = std::current_exception();
    }
  });
  tracer.join();
  if (error) std::rethrow_exception(error);
  result.total_ns = static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start).count());
  return result;
}

}  // namespace ckpt
