// resume(): an image becomes the processes again that it was taken of.
//
//   1. everything is parsed, checked and opened, in this process, with the rights of the caller
//   2. the stubs under the old pids, each by its parent; their descriptors; their address spaces; the pages. A process whose
//      children have inherited some of its memory has its own before they are made, so that they inherit it again
//   3. what the kernel keeps for processes and threads (rooms), then registers, and go
//
// Until the very last step an error kills all stubs and leaves nothing; so does the death of this process.
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <thread>

#include "engine/base/error.h"
#include "engine/base/parallel.h"
#include "engine/base/sched.h"
#include "engine/engine.h"
#include "engine/image/manifest.h"
#include "engine/kinds/family.h"
#include "engine/kinds/sysv_msg.h"
#include "engine/kinds/sysv_sem.h"
#include "engine/make_room.h"
#include "engine/process/as_caller.h"
#include "engine/process/procfs.h"
#include "engine/process/spawn.h"
#include "engine/process/stub_tree.h"
#include "engine/process/xsave_layout.h"
#include "engine/resume_family.h"
#include "engine/resume_process.h"

namespace ckpt {

namespace {

constexpr int kMaxPid = 1 << 22;          // PID_MAX_LIMIT

class TreeResume {
 public:
  TreeResume(const ImageSource& image, const Caller& caller, const ResumeOptions& options, const MakeRoom& make_room)
      : shared_(image, caller, options), make_room_(make_room) {}

  /// A failure takes back what has been done outside of the processes.
  pid_t run();
  /// ResumeResult::note.
  const std::string& note() const { return note_; }

 private:
  pid_t make_all();
  void read_header();
  void read_family();
  std::vector<pid_t> read_zombies() const;
  void open_files();
  void check_pids() const;
  void wait_for_pids() const;
  void make_family(StubTree& tree);
  void make(StubTree& tree, const FamilyStep& step);
  void make_memory(StubTree& tree, ProcessResume& owner);
  void begin(const ProcessResume& process, Stub& stub, const ProcessResume* maker);
  void lead_session(Stub& stub);
  void become_ended(Remote& leader) const;
  void pin(const std::vector<Stub*>& stubs) {
    pin_.emplace(std::vector<const Stub*>{stubs.begin(), stubs.end()});
    pin_->leave_stubs();
  }
  ProcessResume& process(pid_t pid) { return *processes_.at(pid); }
  void restore_ipc(StubTree& tree);
  void take_terminal() const;

  template <typename Step>
  void for_each(StubTree& tree, Step&& step) {
    for (Stub* stub : tree.stubs()) step(process(stub->pid()), *stub);
    shared_.check_cancel();
  }

  SharedResume shared_;
  const MakeRoom& make_room_;
  std::map<pid_t, std::unique_ptr<ProcessResume>> processes_;
  std::vector<Relations> family_;    // parents before their children
  std::vector<FamilyStep> steps_;
  std::string note_;
  std::optional<CpuPin> pin_;
};

void TreeResume::read_header() {
  const ManifestHeader header = Manifest::parse(shared_.image.read(kManifestName), shared_.where).header;
  if (!header.memory) {
    fail(EOPNOTSUPP, "{}: holds registers and tables without memory (it was taken with cpu), and cannot be resumed",
         shared_.where);
  }
  utsname uts = {};
  uname(&uts);
  if (header.machine != uts.machine) {
    fail(ENOEXEC, "{}: was taken on another architecture ({}; this is {})", shared_.where, header.machine, uts.machine);
  }
  if (const uint64_t missing = header.xfeatures & ~xsave_layout().features; missing != 0) {
    fail(ENOEXEC, "{}: was taken on a CPU with XSAVE features that this one does not have ({:#x})", shared_.where,
         missing);
  }
  shared_.root = header.pid;
  for (const int pid : header.pids) {
    if (pid <= 1 || pid > kMaxPid) fail(EINVAL, "{}: {} cannot be the pid of a process", shared_.where, pid);
    shared_.pids.insert(pid);
  }
  for (const int pid : header.pids) {
    processes_.emplace(pid, std::make_unique<ProcessResume>(shared_, pid));
    family_.push_back(parse_family(shared_.image, process_prefix(pid, header.pid), pid));
  }
}

/// Children that are not among the processes that run.
std::vector<pid_t> TreeResume::read_zombies() const {
  std::vector<pid_t> zombies;
  constexpr std::string_view kDir = "children/", kFile = "/family";
  for (const ImageEntry& entry : shared_.image.below("children")) {
    if (!entry.path.ends_with(kFile)) continue;
    const std::string_view name =
        std::string_view(entry.path).substr(kDir.size(), entry.path.size() - kDir.size() - kFile.size());
    const auto pid = parse_u64(name);
    if (!pid || *pid <= 1 || *pid > kMaxPid || std::to_string(*pid) != name) {
      fail(EINVAL, "{}: {} is not of a process", shared_.where, entry.path);
    }
    if (!shared_.pids.contains(static_cast<pid_t>(*pid))) zombies.push_back(static_cast<pid_t>(*pid));
  }
  return zombies;
}

void TreeResume::read_family() {
  for (const Relations& member : family_) {
    if (member.exit_status) fail(EINVAL, "{}: process {} runs, and has ended", shared_.where, member.pid);
  }
  for (const pid_t pid : read_zombies()) {
    family_.push_back(parse_family(shared_.image, process_prefix(pid, shared_.root), pid));
    if (!family_.back().exit_status) fail(EINVAL, "{}: process {} is not in the manifest", shared_.where, pid);
  }
  for (const Relations& member : family_) shared_.pids.insert(member.pid);
  steps_ = plan_family(family_, shared_.options.as_child, shared_.where);
  for (const Relations& member : family_) {
    if (!member.exit_status) process(member.pid).share(member.shares);
  }
}

void TreeResume::open_files() {
  const AsCaller rights(shared_.caller);
  for (const Relations& member : family_) {
    if (!member.exit_status) process(member.pid).open_files();
  }
}

/// Nothing is opened, which somebody else may see, for a resume that is bound to fail.
void TreeResume::check_pids() const {
  for (const pid_t pid : shared_.pids) {
    if (pid_in_use(pid) && !is_ending(pid)) fail_clone(pid, EEXIST);
  }
}

/// No process has the pid, but the group of that number has members: zombies, as a rule, that init is about to reap.
bool is_left_as_group(pid_t pid) { return !pid_in_use(pid) && ::kill(-pid, 0) == 0; }

// Who has just killed the old processes copies their archive at once; their parents, or init, take a moment to reap them.
void TreeResume::wait_for_pids() const {
  using namespace std::chrono_literals;
  const auto start = std::chrono::steady_clock::now();
  for (const pid_t pid : shared_.pids) {
    const auto in_use = [&] {
      const auto waited = std::chrono::steady_clock::now() - start;
      return (waited < 5s && is_ending(pid)) || (waited < 1s && is_left_as_group(pid));
    };
    while (in_use()) {
      shared_.check_cancel();
      std::this_thread::sleep_for(2ms);
    }
  }
}

/// What fork(2) copies must be there by then. Those who share it find what they run on at another place.
void TreeResume::make_memory(StubTree& tree, ProcessResume& owner) {
  constexpr uint64_t kLarge = 4 << 20;  // worth the other CPU
  Stub& stub = tree.at(owner.pid());
  const bool large = owner.memory_bytes() >= kLarge;
  if (large) pin_.reset();
  owner.make_memory(stub);
  const std::vector<Stub*> stubs = tree.stubs();
  for (Stub* other : stubs) {
    const auto found = processes_.find(other->pid());
    if (found == processes_.end() || other == &stub) continue;
    if (found->second->memory_owner() == owner.pid()) other->share_helper(stub);
  }
  if (large) pin(stubs);
}

void TreeResume::make(StubTree& tree, const FamilyStep& step) {
  ProcessResume* const owner = processes_.contains(step.by) ? &process(process(step.by).memory_owner()) : nullptr;
  if (owner != nullptr && processes_.contains(step.pid)) {
    if (!owner->has_memory() && process(step.pid).inherits(*owner)) make_memory(tree, *owner);
    if (owner->has_memory()) process(step.pid).is_copy_of(*owner);
  }
  Stub& stub = tree.make(step.pid, {step.by, step.thread, step.sibling, step.exit_signal, step.clone_flags});
  const auto found = processes_.find(step.pid), maker = processes_.find(step.by);
  if (found != processes_.end()) begin(*found->second, stub, maker == processes_.end() ? nullptr : maker->second.get());
}

void TreeResume::begin(const ProcessResume& process, Stub& stub, const ProcessResume* maker) {
  const std::string note = process.begin(stub, maker);
  if (note_.empty() && !note.empty()) note_ = fmt::format("{}: {}", process.pid(), note);
}

void TreeResume::lead_session(Stub& stub) {
  const auto found = processes_.find(stub.pid());
  if (found != processes_.end()) return found->second->lead_session(stub);
  stub.leader().call("setsid", SYS_setsid);  // a helper
}

/// What is still to be seen of one that has ended: its name, and the user that waitid(2) tells.
void TreeResume::become_ended(Remote& leader) const {
  const std::string path = process_prefix(leader.pid(), shared_.root) + "status";
  const ProcStatus was = parse_status(shared_.image.read(path), leader.pid());
  const Caller& caller = shared_.caller;
  const auto is_callers = [&](uid_t uid) { return uid == caller.uid; };
  if (!caller.privileged() && !std::ranges::all_of(was.uid, is_callers)) {
    fail(EPERM, "{}: {}: the uid is not the caller's ({})", shared_.where, path, caller.uid);
  }
  leader.call("prctl(PR_SET_NAME)", SYS_prctl, PR_SET_NAME, leader.put_string(was.name.substr(0, 15)).addr, 0, 0, 0);
  if (read_status(leader.pid()).uid != was.uid) {
    leader.call("setresuid", SYS_setresuid, was.uid[0], was.uid[1], was.uid[2]);
  }
}

void TreeResume::make_family(StubTree& tree) {
  using Kind = FamilyStep::Kind;
  begin(process(shared_.root), tree.root(), nullptr);
  for (const FamilyStep& step : steps_) {
    shared_.check_cancel();
    switch (step.kind) {
      case Kind::make: make(tree, step); break;
      case Kind::lead_session: lead_session(tree.at(step.pid)); break;
      case Kind::lead_group: tree.at(step.pid).leader().call("setpgid", SYS_setpgid, 0, 0); break;
      case Kind::join_group:
        tree.at(step.pid).leader().call("setpgid", SYS_setpgid, 0, static_cast<uint64_t>(step.group));
        break;
      case Kind::end_helper: tree.end(step.pid, 0, true); break;
      case Kind::end_zombie:
        become_ended(tree.at(step.pid).leader());
        tree.end(step.pid, step.exit_status, false);
        break;
    }
  }
}

// A group of its own on our terminal: in the foreground it must be, if we are.
void TreeResume::take_terminal() const {
  if (!shared_.options.as_child || getpgid(shared_.root) != shared_.root) return;
  for (const auto& [number, local] : shared_.options.inherit) {
    // SIGTTOU is blocked in this thread.
    if (isatty(local) && tcgetpgrp(local) == getpgrp()) tcsetpgrp(local, shared_.root);
  }
}

pid_t TreeResume::run() {
  try {
    return make_all();
  } catch (...) {
    shared_.tables.clear();
    shared_.objects.clear();
    shared_.kept.clear();
    shared_.last.clear();
    shared_.traces.take_back();
    throw;
  }
}

void TreeResume::restore_ipc(StubTree& tree) {
  IpcMembers members;
  for (Stub* stub : tree.stubs()) members.emplace(stub->pid(), &stub->leader());
  restore_semaphores(shared_.image, shared_.caller, members, shared_.traces);
  restore_message_queues(shared_.image, shared_.caller, members, shared_.traces);
}

pid_t TreeResume::make_all() {
  read_header();
  for (const auto& [pid, process] : processes_) process->parse();
  read_family();
  if (!make_room_) check_pids();
  open_files();
  if (make_room_) make_room_(std::vector(shared_.pids.begin(), shared_.pids.end()));
  wait_for_pids();
  shared_.check_cancel();

  StubTree tree(shared_.root, shared_.options.as_child);
  // The stubs stay on one CPU until restore_affinity() gives each thread its own; those who are made inherit it.
  pin({&tree.root()});
  make_family(tree);
  for_each(tree, [](ProcessResume& process, Stub& stub) { process.complete_files(stub); });
  for_each(tree, [](ProcessResume& process, Stub&) { process.adopt_files(); });
  for_each(tree, [&tree](ProcessResume& process, Stub& stub) { process.build(stub, tree); });
  pin_.reset();
  for_each(tree, [](ProcessResume& process, Stub& stub) { process.fill(stub); });

  const std::vector<Stub*> stubs = tree.stubs();
  pin(stubs);
  for_each(tree, [](ProcessResume& process, Stub& stub) { process.finish_memory(stub); });
  for_each(tree, [](ProcessResume& process, Stub& stub) { process.finish_files(stub); });
  restore_ipc(tree);
  for_each(tree, [](ProcessResume& process, Stub& stub) { process.restore_state(stub); });
  // Ends of pipes that only we hold any more must not be missed, nor waited for, by who reads the others.
  shared_.objects.clear();
  shared_.kept.clear();
  tree.root().hand_over();
  take_terminal();
  // Who shares the memory of another comes before it.
  for (auto stub = stubs.rbegin(); stub != stubs.rend(); ++stub) process((*stub)->pid()).make_ready(**stub);
  for (const auto& work : shared_.last) work();
  shared_.last.clear();
  // They run at once, on the CPU that we have shared with them; who has asked for it is not to wait for a slice of theirs.
  go_first();
  tree.let_go([this](pid_t pid) { return shared_.options.stopped || process(pid).was_stopped(); }, shared_.traces);
  return shared_.root;
}

}  // namespace

ResumeResult resume(const ImageSource& image, const Caller& caller, const ResumeOptions& options) {
  return resume(image, caller, options, {});
}

ResumeResult resume(const ImageSource& image, const Caller& caller, const ResumeOptions& options,
                    const MakeRoom& make_room) {
  const auto start = std::chrono::steady_clock::now();
  ResumeResult result;
  // A tracer is a thread, and everything that the stub is made with (mask, affinity) is this thread's.
  in_thread([&] {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, nullptr);
    try {
      TreeResume tree(image, caller, options, make_room);
      result.pid = tree.run();
      result.note = tree.note();
    } catch (const Error& e) {
      // Some tell of a pid, a thread or a call only.
      const std::string name = image.describe();
      const std::string whole = e.sentence().starts_with(name) ? e.sentence() : name + ": " + e.sentence();
      throw Error(e.err(), whole, e.where());
    }
  });
  result.total_ns = static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start).count());
  return result;
}

}  // namespace ckpt
