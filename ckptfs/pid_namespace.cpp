#include "ckptfs/pid_namespace.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <cstring>

#include "engine/base/error.h"
#include "engine/base/fd.h"
#include "engine/base/record.h"
#include "engine/process/proc_status.h"
#include "engine/process/procfs.h"

namespace ckpt {

namespace {

constexpr const char* kHelper = "--pid-namespace";
constexpr int kSignalBase = 128;

/// What goes back from the init to the helper, and from there to ckptfs: "ok INSIDE OUTSIDE\nNOTE" or "failed ERRNO\nSENTENCE".
std::string report_of(const PidNamespaceResult& result) {
  return fmt::format("ok {} {}\n{}", result.inside, result.outside, result.note);
}

std::string report_of(const Error& error) { return fmt::format("failed {}\n{}", error.err(), error.sentence()); }

PidNamespaceResult parse_report(const std::string& report, const std::string& image) {
  const size_t line = std::min(report.find('\n'), report.size());
  const std::vector<std::string> words = split_words(report.substr(0, line));
  const std::string rest = report.substr(std::min(line + 1, report.size()));
  const auto number = [&](size_t i) { return i < words.size() ? parse_u64(words[i]).value_or(0) : 0; };
  if (words.size() == 3 && words[0] == "ok") return {static_cast<pid_t>(number(1)), static_cast<pid_t>(number(2)), rest};
  if (words.size() == 2 && words[0] == "failed") fail(static_cast<int>(number(1)), "{}", rest);
  fail(EINTR, "{}: who was to resume it in a new pid namespace was killed", image);
}

struct Pipe {
  UniqueFd reading, writing;
  Pipe() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) fail_errno("pipe");
    reading.reset(ends[0]);
    writing.reset(ends[1]);
  }
};

/// In the init alone: the helper looks at both from outside.
void make_mount_namespace() {
  if (::unshare(CLONE_NEWNS) != 0) fail_errno("a new mount namespace");
  // What is unmounted outside goes here too; what is mounted here stays here.
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_SLAVE, nullptr) != 0) fail_errno("/: mount --make-rslave");
  if (::mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) != 0) fail_errno("/proc: mount");
}

/// Until nobody is left; the exit status of process `root`.
int reap_all(pid_t root) {
  int result = 0;
  for (;;) {
    int status = 0;
    const pid_t ended = ::waitpid(-1, &status, __WALL);
    if (ended < 0 && errno == EINTR) continue;
    if (ended < 0) return result;
    if (ended == root) result = WIFEXITED(status) ? WEXITSTATUS(status) : kSignalBase + WTERMSIG(status);
  }
}

[[noreturn]] void run_init(const std::string& image, const std::string& mountpoint, bool stopped, UniqueFd told) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  ::prctl(PR_SET_NAME, "ckpt-init");
  ::setsid();
  pid_t root = 0;
  try {
    make_mount_namespace();
    ResumeOptions options;
    options.stopped = stopped;
    const ResumeResult result = resume(*open_directory_image(image), Caller::self(), options);
    root = result.pid;
    ::umount2(mountpoint.c_str(), MNT_DETACH);
    ::prctl(PR_SET_PDEATHSIG, 0);
    write_all(told.get(), report_of(PidNamespaceResult{root, 0, result.note}), "report of the init");
  } catch (const Error& error) {
    write_all(told.get(), report_of(error), "report of the init");
    ::_exit(EXIT_FAILURE);
  }
  told.reset();
  ::close_range(0, ~0U, 0);
  ::_exit(reap_all(root));
}

/// The pid here of the child that has the pid `inside` there.
pid_t child_outside(pid_t init, pid_t inside) {
  for (const ChildOf& child : list_children(open_proc(init).get())) {
    const auto pids = split_words(status_field(read_file(fmt::format("/proc/{}/status", child.pid)), "NSpid"));
    if (!pids.empty() && pids.back() == std::to_string(inside)) return child.pid;
  }
  fail(ESRCH, "{}: it has ended", inside);
}

std::string help(const std::string& image, const std::string& mountpoint, bool stopped) {
  if (::unshare(CLONE_NEWPID) != 0) fail_errno("{}: a new pid namespace", image);
  Pipe pipe;
  const pid_t init = ::fork();
  if (init < 0) fail_errno("{}: fork", image);
  if (init == 0) {
    pipe.reading.reset();
    run_init(image, mountpoint, stopped, std::move(pipe.writing));
  }
  pipe.writing.reset();
  const std::string report = read_all(pipe.reading.get(), "report of the init");
  if (!report.starts_with("ok ")) {
    ::waitpid(init, nullptr, 0);
    return report;
  }
  PidNamespaceResult result = parse_report(report, image);
  result.outside = child_outside(init, result.inside);
  return report_of(result);
}

pid_t spawn_helper(const std::string& image, const std::string& mountpoint, bool stopped, int report) {
  posix_spawn_file_actions_t files;
  posix_spawnattr_t attributes;
  ::posix_spawn_file_actions_init(&files);
  ::posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_adddup2(&files, report, STDOUT_FILENO);
  ::posix_spawnattr_init(&attributes);
  sigset_t none, all;
  ::sigemptyset(&none);
  ::sigfillset(&all);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  ::posix_spawnattr_setsigmask(&attributes, &none);
  ::posix_spawnattr_setsigdefault(&attributes, &all);
  const char* const words[] = {"ckptfs", kHelper, image.c_str(), mountpoint.c_str(), stopped ? "stopped" : "", nullptr};
  pid_t pid = 0;
  const int err =
      ::posix_spawn(&pid, "/proc/self/exe", &files, &attributes, const_cast<char* const*>(words), ::environ);
  ::posix_spawn_file_actions_destroy(&files);
  ::posix_spawnattr_destroy(&attributes);
  if (err != 0) fail(err, "{}: starting who resumes it in a new pid namespace: {}", image, errno_text(err));
  return pid;
}

}  // namespace

PidNamespaceResult resume_in_pid_namespace(const std::string& image, const std::string& mountpoint, bool stopped,
                                           const CancelFlag* cancel) {
  Pipe pipe;
  const pid_t helper = spawn_helper(image, mountpoint, stopped, pipe.writing.get());
  pipe.writing.reset();
  constexpr int kLook = 50;  // ms
  pollfd end = {pipe.reading.get(), POLLIN, 0};
  while (::poll(&end, 1, kLook) == 0) {
    // It takes the init along, and that one all others.
    if (cancel != nullptr && *cancel) ::kill(helper, SIGKILL);
  }
  const std::string report = read_all(pipe.reading.get(), "report of the helper");
  while (::waitpid(helper, nullptr, 0) < 0 && errno == EINTR) {
  }
  return parse_report(report, image);
}

bool is_pid_namespace_helper(int argc, char** argv) { return argc == 5 && std::strcmp(argv[1], kHelper) == 0; }

void pid_namespace_helper(char** argv) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  std::string report;
  try {
    if (::chdir("/") != 0) fail_errno("/: chdir");
    report = help(argv[2], argv[3], std::strcmp(argv[4], "stopped") == 0);
  } catch (const Error& error) {
    report = report_of(error);
  }
  write_all(STDOUT_FILENO, report, "report of the helper");
  // Without what runs at an exit: a search for leaks, of a sanitizer, makes a process, and it would be one of the other
  // pid namespace.
  ::_exit(EXIT_SUCCESS);
}

}  // namespace ckpt
