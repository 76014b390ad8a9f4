#include "ckptfs/replacement.h"

#include <signal.h>
#include <sys/syscall.h>

#include <algorithm>

#include "ckptfs/request.h"
#include "engine/base/error.h"
#include "engine/base/record.h"
#include "engine/image/manifest.h"
#include "engine/make_room.h"
#include "engine/process/proc_status.h"
#include "engine/process/procfs.h"

namespace ckpt {

namespace {

bool runs(pid_t pid) { return ::kill(pid, 0) == 0 || errno != ESRCH; }

/// A thread of the process is in wait4(2) or waitid(2).
bool waits_for_children(pid_t pid) {
  const UniqueFd proc = open_proc(pid);
  return std::ranges::any_of(list_tasks(proc.get()), [&](pid_t tid) {
    try {
      const auto words = split_words(read_file(proc.get(), fmt::format("task/{}/syscall", tid).c_str()));
      const auto number = words.empty() ? std::nullopt : parse_u64(words[0]);
      return number == uint64_t{SYS_wait4} || number == uint64_t{SYS_waitid};
    } catch (const Error&) {
      return false;  // the thread has ended
    }
  });
}

/// A zombie keeps its pid. Throws Error(EBUSY) where the parent gives no sign that it would wait for it.
void check_will_be_reaped(pid_t pid, const Caller& caller) {
  const pid_t parent = read_status(pid).ppid;
  if (parent <= 1) return;
  // A shell whose own echo it is.
  if (parent == caller.pid) {
    fail(EBUSY, "{}: cannot be replaced: its parent {} waits for this command, and cannot wait for its end: give the command by "
         "another process (ckpt restore -o replace)", pid, parent);
  }
  const std::string status = read_file(fmt::format("/proc/{}/status", parent));
  constexpr uint64_t kSigChld = uint64_t{1} << (SIGCHLD - 1);
  const auto has = [&](const char* mask) {
    return (parse_u64("0x" + status_field(status, mask)).value_or(0) & kSigChld) != 0;
  };
  if (has("SigIgn") || has("SigCgt") || waits_for_children(parent)) return;
  fail(EBUSY, "{}: cannot be replaced: its parent {} ({}) does not wait for its end, and the pid would stay in use", pid,
       parent, escape(read_status(parent).name));
}

}  // namespace

void Replacement::make_room(pid_t root, std::span<const pid_t> pids, const Caller& caller, const CancelFlag* cancel) {
  // What is about to end anyway is the resume's to wait for.
  const auto in_the_way = [](pid_t pid) { return runs(pid) && !is_ending(pid); };
  for (const pid_t pid : pids) {
    if (pid != root && in_the_way(pid) && !is_same_or_ancestor(root, pid)) {
      fail(EEXIST, "{}: the pid is in use by a process that is no descendant of {}", pid, root);
    }
  }
  if (!in_the_way(root)) return;
  check_will_be_reaped(root, caller);
  CheckpointCommand command;
  command.pid = root;
  command.after = AfterCapture::exit;
  replaced_ = take_(command, caller, cancel).name;
}

void Replacement::go_back(const Error& failure, const Caller& caller) {
  try {
    resume(*catalog_.store().open_image(replaced_), caller, {});
  } catch (const std::exception& second) {
    fail(failure.err(), "{}; what ran before is in images/{}, and could not be resumed from it: {}", failure.sentence(),
         replaced_, second.what());
  }
  fail(failure.err(), "{}; what ran before was resumed from images/{}", failure.sentence(), replaced_);
}

ResumeResult Replacement::run(const StoredImage& image, const Caller& caller, const ResumeOptions& options) {
  verify_image(image);
  try {
    return resume(image, caller, options, [&](std::span<const pid_t> pids) {
      make_room(image.info().header.pid, pids, caller, options.cancel);
    });
  } catch (const Error& failure) {
    if (replaced_.empty()) throw;
    go_back(failure, caller);
  }
}

}  // namespace ckpt
