#include "engine/checkpoint_process.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <tuple>

#include "engine/answer.h"
#include "engine/base/error.h"
#include "engine/checkpoint_checks.h"
#include "engine/kinds/named_memory.h"
#include "engine/kinds/process_room.h"
#include "engine/kinds/registers.h"
#include "engine/memory/capture_memory.h"
#include "engine/memory/layout.h"
#include "engine/memory/tracking_set.h"

namespace ckpt {
namespace {

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

}  // namespace

void SharedCapture::check_cancel() const {
  if (options.cancel != nullptr && options.cancel->load()) fail(EINTR, "{}: the checkpoint was cancelled", root);
}

ProcessCapture::ProcessCapture(SharedCapture& shared, pid_t pid)
    : shared_(shared),
      pid_(pid),
      prefix_(process_prefix(pid, shared.root)),
      proc_dir_(open_proc(pid)),
      cpus_(pid),
      memory_(pid, proc_dir_.get()) {
  pid_fd_.reset(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!pid_fd_) fail_errno("{}: pidfd_open", pid);
  status_ = parse_status(read_file(proc_dir_.get(), "status"), pid_);
}

bool ProcessCapture::ended() const {
  pollfd fd = {pid_fd_.get(), POLLIN, 0};
  return ::poll(&fd, 1, 0) > 0;
}

bool ProcessCapture::ends() const {
  try {
    if (ended()) return true;
    if (parse_status(read_file(proc_dir_.get(), "status"), pid_).has_mm) return false;
  } catch (const Error&) {
    // Nobody is there to tell.
  }
  pollfd fd = {pid_fd_.get(), POLLIN, 0};
  return ::poll(&fd, 1, 1000) > 0;
}

void ProcessCapture::look() {
  // Again, for the process that pid_fd_ holds: the pid may have become another's while we waited for our turn.
  check_may_checkpoint(shared_.caller, pid_);
  if (ended()) fail(ESRCH, "{}: the process has ended", pid_);
  status_ = parse_status(read_file(proc_dir_.get(), "status"), pid_);
  Refusals& refusals = shared_.refusals;
  can_be_stopped_ = refuse_process(pid_, proc_dir_.get(), status_, refusals);
  if (!process_) {
    can_be_stopped_ &= refusals.collect([this] { refuse_vfork(pid_, proc_dir_.get(), shared_.options.cancel); });
  }
  if (shared_.options.tracking != nullptr && shared_.options.engine != EngineChoice::kernel) {
    if (shared_.options.full && !shared_.options.dry_run) shared_.options.tracking->forget_process(pid_);
    tracking_ = shared_.options.tracking->find(pid_, shared_.root, shared_.options.track);
  }
  memory_.read(tracking_ && tracking_->attached());
  probe_mm();
  refuse_mappings(pid_, memory_.vmas(), refusals);
  read_files();
  looked_at_ = true;
}

void ProcessCapture::refuse_again() {
  can_be_stopped_ = refuse_process(pid_, proc_dir_.get(), status_, shared_.refusals);
}

void ProcessCapture::share(const Sharing& sharing) {
  sharing_ = sharing;
  if (sharing.descriptors != 0) files_.clear();
  if (sharing.memory != 0) {
    snapshot_.reset();
    shared_.common_memory.insert(sharing.memory);
  }
}

void ProcessCapture::read_files() {
  if (sharing_.descriptors == 0) files_ = read_fd_table(pid_, proc_dir_.get());
}

void ProcessCapture::refuse_files() {
  refuse_descriptors(pid_, files_, shared_.refusals, shared_.options.no_sockets, &shared_.descriptors);
}

void ProcessCapture::seize() {
  if (!process_) process_ = std::make_unique<StoppedProcess>(pid_);
}

void ProcessCapture::interrupt() { process_->interrupt(); }

void ProcessCapture::wait_stop() { process_->stop_outside_vdso(shared_.options.cancel); }

void ProcessCapture::capture_proc_files(const std::string& status) {
  ImageSink& image = *shared_.image;
  for (const char* name : {"cmdline", "environ", "auxv", "limits", "cgroup"}) {
    image.put(prefix_ + name, read_file(proc_dir_.get(), name));
  }
  for (const char* name : {"exe", "cwd", "root"}) image.put_link(prefix_ + name, read_link(proc_dir_.get(), name));
  note_owner(parse_status(status, pid_));
  image.put(prefix_ + "status", untraced_status(status, status_.state, process_->group_stopped()));
}

// Asked in the stop: before and after it the process may be another program with other rights. The image of a set-uid
// program, of one that has made itself unreadable (the files of such a process in /proc are root's too,
// task_dump_owner() in fs/proc/base.c), or of one with capabilities is root's: its user could not trace it.
void ProcessCapture::note_owner(const ProcStatus& status) {
  const auto rights = [](const ProcStatus& s) { return std::tie(s.uid, s.gid, s.cap_permitted); };
  if (rights(status) != rights(status_)) check_may_checkpoint(shared_.caller, pid_);
  struct stat st {};
  const bool readable = ::fstatat(proc_dir_.get(), "maps", &st, 0) == 0 && st.st_uid == status.uid[1];
  const bool plain = status.uid[0] == status.uid[1] && status.uid[0] == status.uid[2] &&
                     status.gid[0] == status.gid[1] && status.gid[0] == status.gid[2] && status.cap_permitted == 0;
  owner_uid_ = readable && plain ? status.uid[0] : 0;
  owner_gid_ = readable && plain ? status.gid[0] : 0;
}

void ProcessCapture::ask_module() {
  if (!shared_.module) return;
  told_ = told_remotes(*process_, shared_.module.get());
  told_by_module_ = !told_.empty();
}

std::vector<Remote*> ProcessCapture::remotes() const {
  if (told_.empty()) return process_->remotes();
  std::vector<Remote*> remotes;
  for (const auto& thread : told_) remotes.push_back(thread.get());
  return remotes;
}

CaptureContext ProcessCapture::context() {
  CaptureContext ctx;
  ctx.pid = pid_;
  ctx.proc_dir = proc_dir_.get();
  ctx.pid_fd = pid_fd_.get();
  ctx.prefix = prefix_;
  ctx.root = read_link(proc_dir_.get(), "root");
  ctx.image = shared_.image.get();
  ctx.leader = remotes().front();
  ctx.objects = &shared_.objects;
  ctx.later = &shared_.later;
  ctx.later_bytes = &shared_.later_bytes;
  ctx.memory = shared_.options.memory;
  ctx.tree = &shared_.descriptors;
  ctx.fds = &files_;
  ctx.queued = shared_.queued;
  ctx.no_sockets = shared_.options.no_sockets;
  if (shared_.quiet_end) ctx.peer_hold = shared_.quiet_end->hold();
  ctx.no_pgrp_ttys = shared_.options.no_pgrp_ttys;
  ctx.refusals = &shared_.refusals;
  return ctx;
}

void ProcessCapture::capture(const Relations& relations) {
  ImageSink& image = *shared_.image;
  // First what any call of ours could change.
  for (const auto& thread : process_->threads()) capture_registers(image, prefix_, *thread);
  const bool own_memory = sharing_.memory == 0;
  bool mappings_are_good = own_memory;
  if (own_memory) {
    memory_.fix(process_->maps());
    mappings_are_good = refuse_mappings(pid_, memory_.vmas(), shared_.refusals);
  }
  ask_module();
  CaptureContext ctx = context();
  ctx.status = read_file(proc_dir_.get(), "status");
  capture_proc_files(ctx.status);
  capture_family(image, prefix_, relations);
  const bool asked = pid_ == shared_.root && shared_.options.answer_at != 0;
  if (asked) capture_answer(image, prefix_, shared_.options.answer_at);

  ctx.exit_words = &shared_.exit_words[memory_owner()];
  refuse_files();  // it may have opened something since
  capture_descriptors(ctx, files_);
  Questions questions;
  if (own_memory) ask_mm(ctx, questions);
  capture_rooms(ctx, remotes(), questions);
  if (mappings_are_good) {
    ctx.step([&] { capture_shared_mappings(ctx, memory_.vmas()); });
    ctx.step([&] { capture_named_memory(ctx, memory_.vmas()); });
    ctx.step([&] { capture_mm(ctx, memory_.vmas(), questions); });
  }
  shared_.check_cancel();
  // The borrowed bytes of stacks go back before the instant is fixed.
  process_->finish_calls();
}

void ProcessCapture::resume() {
  told_.clear();
  process_.reset();
}

}  // namespace ckpt
