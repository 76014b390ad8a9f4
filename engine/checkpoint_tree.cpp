#include "engine/checkpoint_tree.h"

#include <sys/syscall.h>
#include <sys/utsname.h>
#include <time.h>

#include <algorithm>
#include <map>

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

/// Attempts that an execve(2) or the end of a descendant may spoil.
constexpr int kSpoilt = 10;

}  // namespace

TreeCapture::TreeCapture(Store& store, pid_t root, const Caller& caller, const CheckpointOptions& options,
                         CaptureTurns& turns, CaptureLessons& lessons)
    : shared_{store, caller, options, root, {}, {}, {}, 0, {}, {}, {}, {}, {}, {}, {}}, turns_(turns), lessons_(lessons) {
  shared_.module = open_module_for(options.engine, root);
  members_.push_back(std::make_unique<ProcessCapture>(shared_, root));
}

void TreeCapture::drop(const ProcessCapture& member) {
  turns_.give_back(member.pid());
  std::erase_if(members_, [&](const auto& m) { return m.get() == &member; });
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
  for (ProcessCapture* process : order_) {
    refusals.collect([&] {
      naming_process(process->pid(), [&] { process->capture(family_.at(process->pid())); });
    });
  }
  for (const auto& [pid, relations] : family_) {
    if (relations.exit_status) capture_zombie(relations);
  }
  refusals.collect([this] { capture_ipc(); });
  if (shared_.options.dry_run) return;
  refusals.raise();
  for (ProcessCapture* process : order_) {
    with_snapshot(*process, [](ProcessCapture& m) { m.fix_snapshot(); });
  }
  captured_ = true;
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
  bool spoilt = known != nullptr && (known->err() == ESRCH || known->err() == ETIMEDOUT);
  // Or a descendant has ended in the stop, whose files in /proc fail with other errors too.
  if (!captured_) spoilt |= std::ranges::any_of(members_, [](const auto& member) { return member->ends(); });
  return spoilt && ++lessons_.spoilt <= kSpoilt;
}

}  // namespace ckpt
