#include "engine/checkpoint_tree.h"

#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>

#include <algorithm>
#include <map>
#include <set>

#include "engine/base/error.h"
#include "engine/base/sched.h"
#include "engine/checkpoint_checks.h"
#include "engine/image/resume_script.h"
#include "engine/kernel.h"
#include "engine/kinds/sysv_msg.h"
#include "engine/kinds/sysv_sem.h"
#include "engine/kinds/unix_queue.h"
#include "engine/module.h"
#include "engine/process/death_guard.h"
#include "engine/process/xsave_layout.h"

namespace ckpt {
namespace {

/// Looks at a tree that changes; see TreeCapture::look.
constexpr int kLooks = 5;
/// Attempts that an execve(2) may spoil.
constexpr int kExecs = 10;

std::vector<pid_t> pids_of(const auto& processes) {
  std::vector<pid_t> pids;
  for (const auto& process : processes) pids.push_back(process->pid());
  return pids;
}

}  // namespace

TreeCapture::TreeCapture(Store& store, pid_t root, const Caller& caller, const CheckpointOptions& options,
                         CaptureTurns& turns, CaptureLessons& lessons)
    : shared_{store, caller, options, root, {}, {}, {}, 0, {}, {}, {}, {}, {}, {}, {}}, turns_(turns), lessons_(lessons) {
  shared_.module = open_module_for(options.engine, root);
  members_.push_back(std::make_unique<ProcessCapture>(shared_, root));
}

template <typename F>
void TreeCapture::with_snapshot(ProcessCapture& member, F&& work) {
  at_work_ = member.pid();
  work(member);
  at_work_ = 0;
}

template <typename F>
void TreeCapture::for_each_alive(F&& work) {
  for (size_t i = 0; i < members_.size();) {
    ProcessCapture& member = *members_[i];
    try {
      work(member);
    } catch (const Error&) {
      if (i == 0 || !member.ends()) throw;
      drop(member);
      continue;
    }
    ++i;
  }
}

void TreeCapture::drop(const ProcessCapture& member) {
  turns_.give_back(member.pid());
  std::erase_if(members_, [&](const auto& m) { return m.get() == &member; });
}

// ---- before the stop ----

void TreeCapture::find_members() {
  while (members_.size() > 1) drop(*members_.back());
  ended_.clear();
  seen_ = {read_relations(members_.front()->proc_dir(), shared_.root)};
  for (size_t i = 0; i < members_.size(); ++i) {
    const pid_t parent = members_[i]->pid();
    for (const ChildOf& child : list_children(members_[i]->proc_dir())) {
      const auto known = [&](const auto& m) { return m->pid() == child.pid; };
      if (std::ranges::any_of(members_, known)) continue;
      turns_.take(child.pid, shared_.options.cancel);
      try {
        auto member = std::make_unique<ProcessCapture>(shared_, child.pid);
        const bool zombie = member->status().state == 'Z' || member->status().state == 'X';
        // The pid may be another's by now.
        if (member->status().ppid == parent && !zombie) {
          seen_.push_back(read_relations(member->proc_dir(), child.pid));
          seen_.back().parent = parent;
          seen_.back().parent_thread = child.thread;
          members_.push_back(std::move(member));
          continue;
        }
        if (zombie) ended_.insert(child.pid);
      } catch (const Error&) {
        // It has ended.
      }
      turns_.give_back(child.pid);
    }
  }
}

void TreeCapture::index_descriptors() {
  std::vector<std::vector<OpenFd>*> tables;
  for (const auto& member : members_) tables.push_back(&member->files());
  if (tables.size() > 1) find_shared_descriptions(tables);
  shared_.descriptors = {};
  for (const auto& member : members_) shared_.descriptors.add(member->pid(), member->files());
  shared_.descriptors.pids.insert(ended_.begin(), ended_.end());
  for (const auto& [pid, relations] : family_) shared_.descriptors.pids.insert(pid);
}

void TreeCapture::take_sharing(const std::vector<pid_t>& pids, bool run) {
  sharing_ = sharing_of(pids, run, shared_.refusals);
  for (const auto& member : members_) {
    const auto found = sharing_.find(member->pid());
    member->share(found == sharing_.end() ? Sharing{} : found->second);
  }
}

void TreeCapture::look_at_members() {
  shared_.refusals.clear();
  for_each_alive([this](ProcessCapture& member) { shared_.refusals.collect([&] { member.look(); }); });
  take_sharing(pids_of(members_), true);
  for (Relations& seen : seen_) {
    if (const auto found = sharing_.find(seen.pid); found != sharing_.end()) seen.shares = found->second;
  }
  shared_.refusals.collect([this] { refuse_family(seen_); });
  // Without the table of one, the ends that it has would seem to be outside.
  if (!std::ranges::all_of(members_, &ProcessCapture::looked_at)) return;
  index_descriptors();
  for_each_alive([](ProcessCapture& member) { member.refuse_files(); });
}

// Processes that run are not seen all at one instant: the other end of a pipe may be in a child that was born after the
// look at it. Refusals count when they come twice; where the tree never rests the stop will tell.
void TreeCapture::look() {
  std::string before;
  for (int round = 0; round < kLooks; ++round) {
    find_members();
    look_at_members();
    const std::string found = shared_.refusals.text();
    if (found.empty() || members_.size() == 1 || found == before) return;
    before = found;
  }
  never_rests_ = true;
  shared_.refusals.clear();
}

bool TreeCapture::can_be_stopped() const { return std::ranges::all_of(members_, &ProcessCapture::can_be_stopped); }

std::string_view TreeCapture::strategy_not_for(const ProcessCapture& member) const {
  const auto lesson = lessons_.without.find(member.pid());
  return lesson == lessons_.without.end() ? "" : std::string_view(lesson->second);
}

void TreeCapture::prepare_snapshots() {
  for_each_alive([this](ProcessCapture& member) {
    with_snapshot(member, [this](ProcessCapture& m) { m.prepare_snapshot(strategy_not_for(m)); });
  });
}

// ---- the stop ----

void TreeCapture::seize_all() {
  for_each_alive([](ProcessCapture& member) { member.seize(); });
}

ProcessCapture& TreeCapture::member(pid_t pid) {
  const auto found = std::ranges::find_if(members_, [pid](const auto& m) { return m->pid() == pid; });
  if (found != members_.end()) {
    if (!(*found)->ended()) return **found;
    drop(**found);  // another had the pid
  }
  if (!turns_.try_take(pid)) {
    lessons_.busy = pid;
    fail(EBUSY, "{}: another checkpoint is at work on it", pid);
  }
  members_.push_back(std::make_unique<ProcessCapture>(shared_, pid));
  return *members_.back();
}

/// A child in the stop of its parent; nothing where it has gone.
std::optional<TreeCapture::Kin> TreeCapture::meet(const ChildOf& child, pid_t parent) {
  Kin kin;
  try {
    const UniqueFd proc_dir = open_proc(child.pid);
    kin.relations = read_relations(proc_dir.get(), child.pid);
  } catch (const Error& e) {
    if (e.err() != ESRCH && e.err() != ENOENT) throw;
    return std::nullopt;
  }
  kin.relations.parent = parent;
  kin.relations.parent_thread = child.thread;
  if (kin.relations.exit_status) {
    if (read_status(child.pid).threads > 1) {
      fail(EOPNOTSUPP, "{}: its main thread has ended while others go on, which cannot be checkpointed", child.pid);
    }
  } else {
    kin.process = &member(child.pid);
  }
  return kin;
}

std::vector<TreeCapture::Kin> TreeCapture::children_of(std::span<ProcessCapture* const> parents) {
  std::vector<Kin> children;
  for (const ProcessCapture* parent : parents) {
    for (const ChildOf& child : list_children(parent->proc_dir())) {
      if (family_.contains(child.pid)) continue;
      if (auto kin = meet(child, parent->pid())) {
        family_.emplace(child.pid, kin->relations);
        children.push_back(*kin);
      }
    }
  }
  return children;
}

void TreeCapture::stop_generation(std::vector<Kin>& generation) {
  const auto ended = [this](Kin& kin) {
    // Its parent, who stands still, has a zombie now, or nothing.
    drop(*kin.process);
    family_.erase(kin.relations.pid);
    kin.process = nullptr;
    if (auto again = meet({kin.relations.parent_thread, kin.relations.pid}, kin.relations.parent);
        again && again->process == nullptr) {
      family_.emplace(kin.relations.pid, again->relations);
    }
  };
  const auto each = [&](auto&& work) {
    for (Kin& kin : generation) {
      if (kin.process == nullptr) continue;
      try {
        work(*kin.process);
      } catch (const Error& e) {
        if (kin.relations.pid == shared_.root || !kin.process->ends()) throw;
        ended(kin);
      }
    }
  };
  each([](ProcessCapture& process) { process.seize(); });
  each([](ProcessCapture& process) { process.interrupt(); });
  each([](ProcessCapture& process) { process.wait_stop(); });
  each([this](ProcessCapture& process) {
    if (!process.looked_at()) {
      born_in_stop_ = true;
      process.look();
      if (shared_.options.dry_run && process.can_be_stopped()) return;
      shared_.refusals.raise();
    } else if (never_rests_) {
      process.refuse_again();
      if (!shared_.options.dry_run) shared_.refusals.raise();
    }
  });
}

void TreeCapture::stop() {
  stopped_at_ = Clock::now();
  Kin root{read_relations(members_.front()->proc_dir(), shared_.root), members_.front().get()};
  family_.emplace(shared_.root, root.relations);
  std::vector<Kin> generation = {root};
  for (;;) {
    stop_generation(generation);
    const size_t before = order_.size();
    for (const Kin& kin : generation) {
      if (kin.process != nullptr) order_.push_back(kin.process);
    }
    generation = children_of(std::span(order_).subspan(before));
    if (generation.empty()) generation = children_of(order_);
    if (generation.empty()) break;
  }
  find_kinship();
  // Whoever was seen before the stop and is nowhere now has ended.
  const std::set<const ProcessCapture*> stand_still(order_.begin(), order_.end());
  std::erase_if(members_, [&](const auto& m) { return !stand_still.contains(m.get()); });
}

/// What is certain now that all stand still. Only who is born can come to share anything.
void TreeCapture::find_kinship() {
  if (born_in_stop_ || never_rests_ || !sharing_.empty()) take_sharing(pids_of(order_), false);
  std::vector<Relations> members;
  for (const ProcessCapture* process : order_) {
    Relations& relations = family_.at(process->pid());
    if (const auto found = sharing_.find(process->pid()); found != sharing_.end()) relations.shares = found->second;
    members.push_back(relations);
  }
  for (const auto& [pid, relations] : family_) {
    if (relations.exit_status) members.push_back(relations);
  }
  shared_.refusals.collect([&] { refuse_family(members); });
  if (shared_.options.dry_run) return;
  for (ProcessCapture* process : order_) {
    // What takes long is done while a process runs: this one is copied.
    if (process->lacks_snapshot()) process->prepare_snapshot("fork");
  }
}

void TreeCapture::capture_zombie(const Relations& zombie) {
  const std::string prefix = process_prefix(zombie.pid, shared_.root);
  capture_family(*shared_.image, prefix, zombie);
  shared_.image->put(prefix + "status", read_file(open_proc(zombie.pid).get(), "status"));
}

void TreeCapture::capture_stopped() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  time_ns_ = static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
  // Whoever has a description first owns it: parents before their children.
  std::map<const ProcessCapture*, size_t> place;
  for (size_t i = 0; i < order_.size(); ++i) place.emplace(order_[i], i);
  std::ranges::sort(members_, {}, [&](const auto& m) { return place.at(m.get()); });
  for (ProcessCapture* process : order_) process->read_files();
  index_descriptors();
  Refusals& refusals = shared_.refusals;
  // Without those the ends that are under way would seem to be outside.
  if (!refusals.collect([this] { shared_.queued = find_queued_descriptors(order_.front()->context()); })) refusals.raise();
  const bool ends = shared_.options.after == AfterCapture::exit || shared_.options.after == AfterCapture::exit_but_root;
  if (ends && !shared_.options.dry_run && !shared_.options.no_sockets && kernel_has("TCP_REPAIR")) {
    refusals.collect([this] { shared_.quiet_end = std::make_unique<QuietEnd>(order_.front()->context()); });
  }
  for (ProcessCapture* process : order_) refusals.collect([&] { process->capture(family_.at(process->pid())); });
  for (const auto& [pid, relations] : family_) {
    if (relations.exit_status) capture_zombie(relations);
  }
  refusals.collect([this] { capture_ipc(); });
  if (shared_.options.dry_run) return;
  refusals.raise();
  for (ProcessCapture* process : order_) {
    with_snapshot(*process, [](ProcessCapture& m) { m.fix_snapshot(); });
  }
}

void TreeCapture::capture_ipc() {
  IpcMembers members;
  for (ProcessCapture* process : order_) members.emplace(process->pid(), &process->process().leader());
  capture_semaphores(*shared_.image, members, sharing_);
  capture_message_queues(*shared_.image, members);
  for (ProcessCapture* process : order_) process->process().finish_calls();
}

CheckpointResult TreeCapture::check() {
  if (can_be_stopped()) {
    shared_.image = shared_.store.begin_image(fmt::format("check of {}", shared_.root));
    seize_all();
    stop();
    capture_stopped();
    let_go();
  }
  shared_.refusals.raise();
  CheckpointResult result;
  result.processes = order_.size();
  result.stop_ns = stop_ns_;
  return result;
}

void TreeCapture::let_go() {
  for (ProcessCapture* process : order_) process->resume();
  stop_ns_ = static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - stopped_at_).count());
}

// ---- after it ----

void TreeCapture::read_pages(bool in_stop) {
  for (ProcessCapture* process : order_) {
    if (process->needs_stop() != in_stop) continue;
    with_snapshot(*process, [](ProcessCapture& m) { m.read_pages(); });
  }
}

/// All that need not be done in the stop.
void TreeCapture::finish() {
  read_pages(false);
  for (const auto& work : shared_.later) work();
  for (ProcessCapture* process : order_) {
    with_snapshot(*process, [](ProcessCapture& m) { m.capture_memory_map(); });
  }
}

CheckpointResult TreeCapture::commit() {
  shared_.check_cancel();
  utsname uts{};
  ::uname(&uts);
  const ProcessCapture& root = *order_.front();
  ManifestHeader header;
  header.machine = uts.machine;
  header.kernel = uts.release;
  header.hostname = uts.nodename;
  header.xfeatures = xsave_layout().features;
  header.pid = shared_.root;
  header.command = root.status().name;
  header.uid = root.owner_uid();
  header.gid = root.owner_gid();
  CheckpointResult result;
  for (const ProcessCapture* process : order_) {
    header.pids.push_back(process->pid());
    result.by_module |= process->by_module();
    // Of several owners nobody may have it but root.
    if (process->owner_uid() != header.uid) header.uid = header.gid = 0;
    if (process->owner_gid() != header.gid && header.uid == 0) header.gid = 0;
  }
  header.engine = result.by_module ? "kernel" : "ptrace";
  header.memory = shared_.options.memory;
  header.time_ns = time_ns_;
  header.stop_ns = stop_ns_;
  if (header.memory) shared_.image->put(kResumeScriptName, kResumeScript);
  header.new_bytes = shared_.image->new_bytes();
  shared_.image->write_manifest(header);
  result.stop_ns = stop_ns_;
  result.time_ns = time_ns_;
  if (shared_.options.deliver) {
    shared_.options.deliver(*shared_.image);
    return result;
  }
  result.name = shared_.options.name.empty() ? std::to_string(shared_.root) : shared_.options.name;
  const auto stored = shared_.image->commit(result.name);
  result.image_id = stored->info().id;
  result.logical_bytes = stored->info().logical_bytes;
  result.incremental = root.incremental();
  for (ProcessCapture* process : order_) process->follow(stored);
  return result;
}

// The youngest first, so that their parents can take note and no zombie is left to anybody outside.
void TreeCapture::end_all(bool but_root) {
  std::vector<int> pid_fds;
  for (const ProcessCapture* process : order_) pid_fds.push_back(process->pid_fd());
  if (but_root) pid_fds.erase(pid_fds.begin());
  // Should we die before the last one has ended.
  const DeathGuard guard(pid_fds);
  if (shared_.quiet_end) shared_.quiet_end->begin();
  const auto reap = [this](const Relations& child) {
    ProcessCapture& parent = member(child.parent);
    parent.process().leader().syscall(SYS_wait4, static_cast<uint64_t>(child.pid), 0, WNOHANG | __WALL, 0);
  };
  for (const auto& [pid, relations] : family_) {
    if (relations.exit_status) reap(relations);
  }
  for (size_t i = order_.size(); i-- > 1;) {
    order_[i]->process().kill();
    reap(family_.at(order_[i]->pid()));
  }
  if (!but_root) order_.front()->process().kill();
}

void TreeCapture::conclude() {
  switch (shared_.options.after) {
    case AfterCapture::go_on: return;
    case AfterCapture::exit: return end_all(false);
    case AfterCapture::exit_but_root:
      end_all(true);
      return order_.front()->process().stop_on_resume();
    case AfterCapture::stop:
      for (ProcessCapture* process : order_) process->process().stop_on_resume();
  }
}

CheckpointResult TreeCapture::run() {
  const bool goes_on = shared_.options.after == AfterCapture::go_on;
  turns_.set_touched(true);
  look();
  if (shared_.options.dry_run) return check();
  shared_.refusals.raise();
  shared_.image = shared_.store.begin_image(fmt::format("checkpoint of {}", shared_.root));
  prepare_snapshots();
  shared_.check_cancel();

  seize_all();
  stop();
  turns_.set_touched(true);
  capture_stopped();
  read_pages(true);
  if (lessons_.read_in_stop || !goes_on) finish();
  if (goes_on) {
    let_go();
    give_way();
    if (!lessons_.read_in_stop) finish();
  }
  for (ProcessCapture* process : order_) process->release_snapshot();
  turns_.set_touched(!goes_on);

  if (!goes_on) stop_ns_ = order_.front()->process().stop_ns();
  const CheckpointResult result = commit();
  conclude();
  return result;
}

bool TreeCapture::worth_another(const std::exception& error) {
  if (lessons_.busy != 0) return true;
  if (dynamic_cast<const SnapshotLost*>(&error) != nullptr) {
    // Of one that was followed: it is not any more.
    const auto lost = std::ranges::find_if(members_, [this](const auto& m) { return m->pid() == at_work_; });
    if (lost != members_.end() && (*lost)->incremental()) return true;
    // The process has undone what the strategy stood on: the next one. "copy" needs nothing.
    std::string& without = lessons_.without[at_work_];
    if (without == "fork") return false;
    without = without.empty() ? "write-protect" : "fork";
    return true;
  }
  if (root_ended()) return false;
  if (at_work_ != 0 && at_work_ != shared_.root && !lessons_.read_in_stop) {
    const auto found = std::ranges::find_if(members_, [this](const auto& m) { return m->pid() == at_work_; });
    if (found != members_.end() && (*found)->ends()) {
      lessons_.read_in_stop = true;
      return true;
    }
  }
  // A thread that is not the main one has executed a program, and has its id now. Or we had no CPU for so long that a
  // thread, which was asked, went on by itself (RemoteSyscall::wait_chain).
  const auto* known = dynamic_cast<const Error*>(&error);
  return known != nullptr && (known->err() == ESRCH || known->err() == ETIMEDOUT) && ++lessons_.execs <= kExecs;
}

}  // namespace ckpt
