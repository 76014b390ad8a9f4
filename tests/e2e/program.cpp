#include "program.h"

#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <sstream>

namespace ckpt_test {

Program::Program(const std::vector<std::string>& arguments, const std::string& directory, bool streams)
    : directory_(directory) {
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const std::string names[] = {directory + "/stdin", directory + "/stdout", directory + "/stderr"};
  if (streams && !exists(names[0])) write_file(names[0], "");
  struct stat st = {};
  const bool fifo = streams && stat(names[0].c_str(), &st) == 0 && S_ISFIFO(st.st_mode);
  int told[2];
  if (pipe2(told, O_CLOEXEC) != 0) throw std::runtime_error("pipe2");
  const pid_t between = fork();
  if (between == 0) {
    const pid_t parent = getpid();
    const pid_t child = fork();
    if (child != 0) {
      static_cast<void>(!write(told[1], &child, sizeof child));
      _exit(0);
    }
    setsid();
    for (int i = 0; i < 3; ++i) {
      // A FIFO as stdin is opened at both ends: it never ends, and nobody outside need hold it.
      const int flags = i == 0 ? (fifo ? O_RDWR : O_RDONLY) : O_WRONLY | O_CREAT | O_TRUNC;
      const int fd = open(streams ? names[i].c_str() : "/dev/null", flags | O_CLOEXEC, 0644);
      dup2(fd, i);
    }
    if (chdir(streams ? directory.c_str() : "/") != 0) _exit(126);
    // Nothing of the test's own may be inherited: ctest's pipes, the descriptors of other tests.
    close_range(3, ~0u, 0);
    // It may note who its parent is: none that is about to end.
    while (getppid() == parent) usleep(100);
    execvp(argv[0], argv.data());
    dprintf(2, "%s: %s\n", argv[0], strerror(errno));
    _exit(127);
  }
  close(told[1]);
  if (read(told[0], &pid_, sizeof pid_) != sizeof pid_) throw std::runtime_error("no child");
  close(told[0]);
  waitpid(between, nullptr, 0);
}

Program::~Program() {
  if (!ended_) kill_and_reap();
}

namespace {

std::vector<pid_t> children_of(pid_t pid) {
  std::vector<pid_t> children;
  std::error_code gone;
  for (const auto& task : std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/task", gone)) {
    std::istringstream list(read_file(task.path() / "children"));
    for (pid_t child; list >> child;) children.push_back(child);
  }
  return children;
}

/// Every descendant, each stopped before its children are looked at, so that none is born unseen.
void stop_tree(pid_t pid, std::vector<pid_t>& all) {
  kill(pid, SIGSTOP);
  wait_until([pid] {
    const std::string status = read_file("/proc/" + std::to_string(pid) + "/status");
    return status.empty() || status.find("State:\tT") != std::string::npos || status.find("State:\tZ") != std::string::npos;
  });
  for (const pid_t child : children_of(pid)) {
    all.push_back(child);
    stop_tree(child, all);
  }
}

}  // namespace

void Program::kill_and_reap() {
  std::vector<pid_t> descendants;
  stop_tree(pid_, descendants);
  kill(-pid_, SIGKILL);
  kill(pid_, SIGKILL);
  for (const pid_t pid : descendants) kill(pid, SIGKILL);
  if (!wait_end()) ADD_FAILURE() << pid_ << ": does not go away after SIGKILL, state " << state();
  // They are ours now, or have gone with a parent who was somebody else's.
  for (const pid_t pid : descendants) {
    EXPECT_TRUE(wait_until([pid] { return waitpid(pid, nullptr, WNOHANG | __WALL) == pid || kill(pid, 0) != 0; })) << pid;
  }
  // So are copies that a checkpoint has made of it, who keep its group in use.
  while (waitpid(-pid_, nullptr, WNOHANG | __WALL) > 0) {
  }
}

bool Program::wait_end(std::chrono::milliseconds limit) {
  // A resumed process may be anybody's child: init's, the daemon's, ours.
  ended_ = wait_until([&] { return waitpid(pid_, nullptr, WNOHANG) == pid_ || kill(pid_, 0) != 0; }, limit);
  return ended_;
}

char Program::state() const {
  const std::string stat = read_file("/proc/" + std::to_string(pid_) + "/stat");
  const size_t at = stat.rfind(") ");
  return at == std::string::npos ? 0 : stat[at + 2];
}

bool Program::running() const { return state() != 0 && state() != 'Z' && state() != 'X'; }

namespace {

std::vector<std::string> command_line(const std::string& name, const std::string& directory,
                                      const std::vector<std::string>& arguments) {
  std::vector<std::string> line = {std::string(CKPT_BIN_DIR "/programs/") + name, directory};
  line.insert(line.end(), arguments.begin(), arguments.end());
  return line;
}

}  // namespace

CheckProgram::CheckProgram(const std::string& name, const std::string& directory,
                           const std::vector<std::string>& arguments)
    : Program(command_line(name, directory, arguments), directory) {}

bool CheckProgram::wait_ready() {
  wait_until([&] { return exists(path("ready")) || exists(path("result")) || !running(); });
  if (exists(path("ready")) && !exists(path("result"))) return true;
  ADD_FAILURE() << "the program did not get ready: " << read_file(path("result"));
  return false;
}

void CheckProgram::between() {
  if (!exists(path("between"))) return;
  const CommandResult result = run({"sh", "-c", "cd \"$1\" && sh -e ./between", "sh", path(".")});
  EXPECT_EQ(result.status, 0) << result.output;
}

void CheckProgram::go() { write_file(path("go"), ""); }

std::string CheckProgram::wait_result() {
  wait_until([&] { return exists(path("result")) || !running(); });
  std::string text = read_file(path("result"));
  if (text.empty()) return std::string("no result; state of the process: ") + (state() ? state() : '-');
  text.pop_back();
  if (!wait_end(std::chrono::seconds(10))) return "the process does not end; its result: " + text;
  return text;
}

bool archive(const Mount& mount, const std::string& image, const std::string& to) {
  const CommandResult result = run({"cp", "-a", mount.path("images/" + image), to});
  EXPECT_EQ(result.status, 0) << result.output;
  return result.status == 0;
}

std::string resume(const Mount& mount, const std::string& archive) {
  const CommandResult result = run({"cp", "-a", archive, mount.path("restore/")});
  if (result.status == 0) return {};
  const std::string name = std::filesystem::path(archive).filename();
  return "cp ends with " + std::to_string(result.status) + ": " + result.output +
         "restore/" + name + "/error: " + read_file(mount.path("restore/" + name + "/error")) +
         "ctl: " + read_file(mount.path("ctl"));
}

void move_through_archive(const Mount& mount, Program& program, const std::string& scratch) {
  const std::string image = std::to_string(program.pid());
  program.kill_and_reap();
  const std::string copy = scratch + "/" + image;
  ASSERT_TRUE(archive(mount, image, copy));
  ASSERT_EQ(resume(mount, copy), "");
  program.resumed();
}

}  // namespace ckpt_test
