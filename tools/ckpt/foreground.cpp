#include "tools/ckpt/foreground.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <map>
#include <set>

#include "engine/base/error.h"
#include "engine/base/record.h"
#include "engine/engine.h"
#include "tools/ckpt/session.h"

namespace ckpt::tool {

namespace {

/// Signals that are meant for the program and reach us, its parent in the shell's eyes.
constexpr int kForwarded[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH, SIGUSR1, SIGUSR2, SIGTSTP, SIGCONT};

Record descriptor(const ImageSource& image, const std::string& path) {
  return Record::parse(image.read(path, 1 << 20), image.describe() + ": " + path);
}

/// Names of the pipes of which the image, with all its processes, holds one end only.
std::set<std::string> pipes_that_lead_outside(const ImageSource& image) {
  std::map<std::string, std::set<uint64_t>> modes;
  for (const ImageEntry& entry : image.entries()) {
    const std::string_view path = entry.path;
    const size_t name = path.rfind('/');
    if (name == path.npos || !path.substr(0, name + 1).ends_with("fds/")) continue;
    const Record record = descriptor(image, entry.path);
    if (record.find("type") != "pipe") continue;
    const uint64_t mode = record.get_u64_or("flags", 0) & O_ACCMODE;
    if (const auto object = record.find("object")) modes[*object].insert(mode);
  }
  std::set<std::string> lead_outside;
  for (const auto& [object, ends] : modes) {
    if (ends.size() == 1 && !ends.contains(O_RDWR)) lead_outside.insert(object);
  }
  return lead_outside;
}

/// True for a descriptor that led to somebody else, who is not in the image: a terminal, or a pipe whose
/// other end has gone. Files stay what they were.
bool led_outside(const ImageSource& image, int fd, const std::set<std::string>& pipes) {
  const std::string path = "fds/" + std::to_string(fd);
  if (!image.has(path)) return false;
  Record record = descriptor(image, path);
  if (const auto shared = record.find("shares")) record = descriptor(image, "fds/" + *shared);
  const auto type = record.find("type");
  if (type == "tty") return !record.has("object") && !record.has("hung_up");
  return type == "pipe" && pipes.contains(record.find("object").value_or(""));
}

std::vector<std::pair<int, int>> inherited(const ImageSource& image) {
  std::vector<std::pair<int, int>> pairs;
  const std::set<std::string> pipes = pipes_that_lead_outside(image);
  for (int fd = 0; fd <= 2; ++fd) {
    if (led_outside(image, fd, pipes) && ::fcntl(fd, F_GETFD) >= 0) pairs.emplace_back(fd, fd);
  }
  return pairs;
}

/// Holds the terminal for the program while we wait, and takes it back.
class Terminal {
 public:
  explicit Terminal(pid_t program) {
    const pid_t group = ::getpgid(program);
    if (!::isatty(STDIN_FILENO) || ::tcgetpgrp(STDIN_FILENO) != ::getpgrp() || group == ::getpgrp()) return;
    if (::getsid(program) != ::getsid(0)) return;
    given_ = ::tcsetpgrp(STDIN_FILENO, group) == 0;
  }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;
  ~Terminal() {
    if (!given_) return;
    // A process of the background that sets the foreground group is stopped by SIGTTOU unless it blocks it:
    // it does.
    ::tcsetpgrp(STDIN_FILENO, ::getpgrp());
  }

 private:
  bool given_ = false;
};

/// Passes a signal on, unless the terminal gave it to the program as well.
void forward(pid_t program, const siginfo_t& info) {
  const bool from_terminal = info.si_code == SI_KERNEL;
  if (from_terminal && ::getpgid(program) == ::getpgrp()) return;
  ::kill(program, info.si_signo);
}

/// Stops with the program, so that the shell sees a stopped job, and lets it go on with us.
void stop_with(pid_t program) {
  ::raise(SIGSTOP);
  ::kill(program, SIGCONT);
}

int wait_for(pid_t program, const sigset_t& signals) {
  for (;;) {
    int status = 0;
    const pid_t changed = ::waitpid(program, &status, WNOHANG | WUNTRACED | __WALL);
    if (changed < 0 && errno != EINTR) fail_errno("{}: waiting for the resumed program", program);
    if (changed == program && WIFEXITED(status)) return WEXITSTATUS(status);
    if (changed == program && WIFSIGNALED(status)) return kSignalBase + WTERMSIG(status);
    if (changed == program) {
      stop_with(program);
      continue;
    }
    siginfo_t info{};
    const int signo = ::sigwaitinfo(&signals, &info);
    if (signo > 0 && signo != SIGCHLD && signo != SIGTTOU) forward(program, info);
  }
}

}  // namespace

int run_in_foreground(const ImageSource& image) {
  sigset_t signals;
  ::sigemptyset(&signals);
  ::sigaddset(&signals, SIGCHLD);
  ::sigaddset(&signals, SIGTTOU);
  for (const int signo : kForwarded) ::sigaddset(&signals, signo);
  ResumeOptions options;
  options.as_child = true;
  options.inherit = inherited(image);
  // Blocked before there is a child, so that none gets lost; the program has its own mask from the image.
  if (::pthread_sigmask(SIG_BLOCK, &signals, nullptr) != 0) fail_errno("blocking signals");
  const pid_t program = resume(image, Caller::self(), options).pid;
  const Terminal terminal(program);
  return wait_for(program, signals);
}

}  // namespace ckpt::tool
