#include "ckptfs/replacement.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <new>
#include <thread>

#include "ckptfs/request.h"
#include "engine/base/error.h"
#include "engine/base/fd.h"
#include "engine/base/record.h"
#include "engine/image/manifest.h"
#include "engine/make_room.h"
#include "engine/process/proc_status.h"
#include "engine/process/procfs.h"

namespace ckpt {

namespace {

/// Number and arguments of a system call (/proc/PID/task/TID/syscall) are those of wait4(2) or waitid(2), of `parent`, that
/// the end of `child` would end.
bool is_wait_for(const std::vector<std::string>& words, pid_t parent, pid_t child) {
  const auto word = [&](size_t i) { return i < words.size() ? parse_u64(words[i]) : std::nullopt; };
  const auto number = word(0), first = word(1), second = word(2), options = word(4);
  if (!number || !first || !second || !options) return false;
  const auto is_its_group = [&](pid_t group) { return ::getpgid(child) == (group != 0 ? group : ::getpgid(parent)); };
  if (*number == SYS_wait4) {
    const auto whom = static_cast<pid_t>(*first);
    return whom == -1 || whom == child || (whom <= 0 && whom > std::numeric_limits<pid_t>::min() && is_its_group(-whom));
  }
  if (*number != SYS_waitid || (*options & WEXITED) == 0) return false;
  const auto id = static_cast<pid_t>(*second);
  switch (static_cast<int>(*first)) {
    case P_ALL: return true;
    case P_PID: return id == child;
    case P_PGID: return is_its_group(id);
    default: return false;
  }
}

/// A thread of `parent` waits for the end of `child`.
bool waits_for(pid_t parent, pid_t child) {
  const UniqueFd proc = open_proc(parent);
  return std::ranges::any_of(list_tasks(proc.get()), [&](pid_t tid) {
    try {
      return is_wait_for(split_words(read_file(proc.get(), fmt::format("task/{}/syscall", tid).c_str())), parent, child);
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
    return (status_mask(status, mask) & kSigChld) != 0;
  };
  if (has("SigIgn") || has("SigCgt") || waits_for(parent, pid)) return;
  fail(EBUSY, "{}: cannot be replaced: its parent {} ({}) does not wait for its end, and the pid would stay in use", pid,
       parent, escape(read_status(parent).name));
}

/// A pid may have become a stranger's since. Throws Error(EEXIST).
void check_is_same_program(const StoredImage& image, pid_t root) {
  const auto path = [](std::string link) {
    constexpr std::string_view kDeleted = " (deleted)";
    if (link.ends_with(kDeleted)) link.resize(link.size() - kDeleted.size());
    return link;
  };
  const std::string was = path(image.read_link("exe"));
  const std::string is = path(read_link(AT_FDCWD, fmt::format("/proc/{}/exe", root)));
  if (was == is) return;
  fail(EEXIST, "{}: the pid is in use by another program ({}) than that of {} ({})", root, escape(is), image.describe(),
       escape(was));
}

/// Until somebody has waited for the zombie, for as long as a parent may take that has other work to do.
void wait_for_end(pid_t pid, const CancelFlag* cancel) {
  using namespace std::chrono_literals;
  const auto end = std::chrono::steady_clock::now() + 60s;
  while (is_ending(pid) && (cancel == nullptr || !*cancel) && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(2ms);
  }
}

Error as_error(const std::exception& failure, const StoredImage& image) {
  if (const auto* known = dynamic_cast<const Error*>(&failure)) return *known;
  const bool memory = dynamic_cast<const std::bad_alloc*>(&failure) != nullptr;
  return {memory ? ENOMEM : EIO, fmt::format("{}: {}", image.describe(), memory ? errno_text(ENOMEM) : failure.what())};
}

}  // namespace

void Replacement::make_room(const StoredImage& image, std::span<const pid_t> pids, const Caller& caller,
                            const CancelFlag* cancel) {
  const pid_t root = image.info().header.pid;
  // What is about to end anyway is the resume's to wait for.
  const auto in_the_way = [](pid_t pid) { return pid_in_use(pid) && !is_ending(pid); };
  for (const pid_t pid : pids) {
    if (pid != root && in_the_way(pid) && !is_same_or_ancestor(root, pid)) {
      fail(EEXIST, "{}: the pid is in use by a process that is no descendant of {}", pid, root);
    }
  }
  if (!in_the_way(root)) return;
  check_is_same_program(image, root);
  check_will_be_reaped(root, caller);
  CheckpointCommand command;
  command.pid = root;
  command.after = AfterCapture::exit;
  replaced_ = take_(command, caller, cancel).name;
}

void Replacement::go_back(const std::exception& why, const StoredImage& image, const Caller& caller,
                          const CancelFlag* cancel) {
  try {
    wait_for_end(image.info().header.pid, cancel);
    resume(*catalog_.store().open_image(replaced_), caller, {});
  } catch (const std::exception& second) {
    const Error failure = as_error(why, image);
    fail(failure.err(), "{}; what ran before is in images/{}, and could not be resumed from it: {}", failure.sentence(),
         replaced_, second.what());
  }
  const Error failure = as_error(why, image);
  fail(failure.err(), "{}; what ran before was resumed from images/{}", failure.sentence(), replaced_);
}

void Replacement::end_hold() const noexcept {
  try {
    if (!replaced_.empty()) end_hold_of(*catalog_.store().open_image(replaced_));
  } catch (const std::exception&) {
    // Somebody has deleted it, and its rule with it.
  }
}

ResumeResult Replacement::run(const StoredImage& image, const Caller& caller, const ResumeOptions& options,
                              LazyFill* lazy) {
  verify_image(image);
  try {
    ResumeResult result = resume(image, caller, options, [&](std::span<const pid_t> pids) {
      make_room(image, pids, caller, options.cancel);
    }, lazy);
    end_hold();
    return result;
  } catch (const std::exception& failure) {
    if (replaced_.empty()) throw;
    go_back(failure, image, caller, options.cancel);
  }
}

}  // namespace ckpt
