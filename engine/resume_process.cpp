#include "engine/resume_process.h"

#include <fcntl.h>
#include <sys/ptrace.h>

#include <algorithm>

#include "engine/answer.h"
#include "engine/base/error.h"
#include "engine/kinds/cgroup.h"
#include "engine/kinds/credentials.h"
#include "engine/kinds/keyring.h"
#include "engine/kinds/process_room.h"
#include "engine/kinds/pty.h"
#include "engine/kinds/scheduling.h"
#include "engine/kinds/signals.h"
#include "engine/memory/fill.h"
#include "engine/process/proc_status.h"
#include "libckpt/ckpt.h"

namespace ckpt {

namespace {

constexpr uint64_t kMaxPid = 1 << 22;          // PID_MAX_LIMIT
constexpr size_t kMaxThreads = 1 << 16;

}  // namespace

void SharedResume::check_cancel() const {
  if (options.cancel != nullptr && options.cancel->load()) fail(EINTR, "{}: the resume was cancelled", where);
}

ProcessResume::ProcessResume(SharedResume& shared, pid_t pid) : shared_(shared) {
  ctx_.image = &shared.image;
  ctx_.caller = shared.caller;
  ctx_.pid = pid;
  ctx_.objects = &shared.objects;
  ctx_.tables = &shared.tables;
  ctx_.kept = &shared.kept;
  ctx_.traces = &shared.traces;
  ctx_.last = &shared.last;
  ctx_.pids = &shared.pids;
  ctx_.root = shared.root;
  ctx_.prefix = ctx_.prefix_of(pid);
}

void ProcessResume::parse() {
  was_stopped_ = status_field(shared_.image.read(ctx_.prefix + "status"), "State").starts_with('T');
  read_threads();
}

void ProcessResume::read_threads() {
  const std::string dir = ctx_.prefix + "threads";
  std::vector<pid_t> tids = {ctx_.pid};
  for (const ImageEntry& entry : shared_.image.below(dir)) {
    const std::string name = entry.path.substr(dir.size() + 1);
    const auto tid = parse_u64(name);
    if (!tid || *tid < 2 || *tid > kMaxPid || std::to_string(*tid) != name) {
      fail(EINVAL, "{}: {} is not the id of a thread", shared_.where, entry.path);
    }
    if (static_cast<pid_t>(*tid) != ctx_.pid) tids.push_back(static_cast<pid_t>(*tid));
    if (tids.size() > kMaxThreads) fail(EINVAL, "{}: more than {} threads", shared_.where, kMaxThreads);
  }
  for (const pid_t tid : tids) {
    const std::string path = fmt::format("{}/{}", dir, tid);
    const Record record = Record::parse(shared_.image.read(path), shared_.where + ": " + path);
    check_may_resume(ctx_.caller, record);
    if (tid == ctx_.pid) leader_ = record;
    threads_.emplace(tid, PlannedThread{parse_registers(shared_.image, ctx_.prefix, tid), recorded_signal_mask(record)});
  }
}

void ProcessResume::open_root() {
  const std::string root = shared_.image.read_link(ctx_.prefix + "root");
  if (root != "/" && !ctx_.caller.privileged()) {
    fail(EPERM, "{}: only root may resume a process in a chroot ({})", shared_.where, root);
  }
  root_ = open_at(AT_FDCWD, root, O_PATH | O_DIRECTORY);
  ctx_.root_fd = root_.get();
  // That it is there must be known before anything is started.
  open_at(AT_FDCWD, shared_.image.read_link(ctx_.prefix + "cwd"), O_PATH | O_DIRECTORY);
}

void ProcessResume::open_files() {
  open_root();
  if (owns_memory()) {
    layout_ = parse_layout(ctx_);
    segments_ = list_segments(shared_.image, ctx_.prefix, layout_.vmas);
    files_.emplace(ctx_, layout_);
  }
  if (!owns_descriptors()) return;
  const bool is_root = ctx_.pid == shared_.root;
  auto fds = restore_descriptors(ctx_, is_root ? shared_.options.inherit : std::vector<std::pair<int, int>>());
  shared_.tables.emplace(ctx_.pid, std::move(fds));
}

std::string ProcessResume::begin(Stub& stub, const ProcessResume* maker) const {
  std::string note = restore_cgroups(ctx_);
  std::optional<std::string> inherited;
  if (maker != nullptr) inherited = recorded_session_keyring(maker->leader_);
  make_session_keyring(stub.leader(), leader_, inherited);
  for (const auto& [tid, planned] : threads_) {
    if (tid != ctx_.pid) stub.add_thread(tid);
  }
  return note;
}

void ProcessResume::open_channel(Stub& stub, int number, size_t spare) {
  ctx_.give = [&stub](int local) { return stub.give(local); };
  stub.open_channel(number, spare);
}

void ProcessResume::lead_session(Stub& stub) {
  stub.leader().call("setsid", SYS_setsid);
  if (!find_controlling_terminal(ctx_)) return;
  open_channel(stub, 0, 0);
  take_controlling_terminal(ctx_, stub.leader());
  stub.close_channel();
}

int ProcessResume::descriptors_end() const {
  const auto& table = shared_.tables.at(owns_descriptors() ? ctx_.pid : sharing_.descriptors).fds;
  return table.empty() ? 0 : table.back().fd + 1;
}

void ProcessResume::complete_files(Stub& stub) {
  if (!owns_descriptors()) return;
  open_channel(stub, descriptors_end(), owns_memory() ? files_->count() : 0);
  complete_descriptors(ctx_, fds(), stub.leader());
}

void ProcessResume::adopt_files() {
  if (owns_descriptors()) adopt_descriptors(ctx_, fds());
}

void ProcessResume::place_descriptors(Stub& stub) {
  std::vector<Placement> to;
  for (const RestoredFd& fd : fds().fds) {
    to.push_back({fds().files.at(static_cast<size_t>(fd.file)).get(), fd.fd, fd.cloexec});
  }
  stub.place(to);
  fds().files.clear();
}

void ProcessResume::build(Stub& stub, StubTree& tree) {
  if (!owns_memory()) stub.share_helper(tree.at(sharing_.memory));
  if (owns_descriptors()) {
    place_descriptors(stub);
  } else {
    // The owner's stand at their numbers by now.
    open_channel(stub, descriptors_end(), owns_memory() ? files_->count() : 0);
  }
  if (owns_memory() && !has_memory_) build_memory(stub);
}

void ProcessResume::fill(Stub& stub) {
  if (owns_memory() && !has_memory_) fill_own_memory(stub);
}

// ---- memory that children inherit -----------------------------------------------------------------------------------

Inheritance ProcessResume::inheritance() const {
  return maker_ == nullptr ? Inheritance{} : find_inheritance(maker_->layout_, maker_->segments_, layout_);
}

bool ProcessResume::inherits(const ProcessResume& maker) const {
  return owns_memory() && maker.owns_memory() && may_be_copied(maker.layout_) &&
         has_any(find_inheritance(maker.layout_, maker.segments_, layout_), segments_);
}

uint64_t ProcessResume::memory_bytes() const {
  uint64_t bytes = 0;
  for (const Segment& segment : segments_) bytes += segment.range.size();
  return bytes;
}

void ProcessResume::build_memory(Stub& stub) { build_layout(stub, layout_, *files_, inheritance()); }

void ProcessResume::fill_own_memory(Stub& stub) {
  fill_memory(shared_.image, ctx_.prefix, layout_.vmas, stub.leader(), shared_.options.cancel, inheritance());
  has_memory_ = true;
}

void ProcessResume::make_memory(Stub& stub) {
  open_channel(stub, descriptors_end(), files_->count());
  build_memory(stub);
  stub.close_channel();  // a child would have it too
  fill_own_memory(stub);
}

void ProcessResume::finish_memory(Stub& stub) const {
  if (owns_memory()) finish_layout(stub, layout_, *files_);
}

void ProcessResume::finish_files(Stub& stub) const {
  if (owns_descriptors()) finish_descriptors(ctx_, fds(), stub.leader());
  restore_foreground(ctx_, stub.leader());
}

void ProcessResume::restore_state(Stub& stub) const {
  std::vector<Remote*> threads;
  for (const auto& thread : stub.threads()) threads.push_back(thread.get());
  restore_rooms(ctx_, threads);
  restore_answer(shared_.image, ctx_.prefix, stub.leader(), shared_.options.stopped ? CKPT_STOP : 0);
  for (const auto& thread : stub.threads()) {
    if (threads_.at(thread->tid()).registers.has_tiles()) thread->use_tiles();
  }
  stub.close_channel();
  if (owns_memory()) restrict_layout(stub, layout_);
}

void ProcessResume::make_ready(Stub& stub) const {
  for (const auto& thread : stub.threads()) restore_affinity(ctx_, *thread);
  stub.make_ready([&](StubThread& thread) {
    const PlannedThread& planned = threads_.at(thread.tid());
    apply_registers(thread.tid(), planned.registers);
    uint64_t mask = planned.signal_mask;
    if (ptrace(static_cast<__ptrace_request>(PTRACE_SETSIGMASK), thread.tid(), sizeof mask, &mask) != 0) {
      fail_errno("{}: signal mask of thread {}", ctx_.pid, thread.tid());
    }
  });
}

}  // namespace ckpt
