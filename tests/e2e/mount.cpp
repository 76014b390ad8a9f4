#include "mount.h"

#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

namespace ckpt_test {

bool wait_until(const std::function<bool()>& condition, std::chrono::milliseconds limit) {
  // A guest without KVM is slow, and slower on a busy machine (tests/vm/run).
  static const char* const patience = getenv("CKPTFS_TEST_PATIENCE");
  const auto end = std::chrono::steady_clock::now() + limit * (patience != nullptr ? atoi(patience) : 1);
  for (;;) {
    if (condition()) return true;
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(3));
  }
}

bool exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

void write_file(const std::string& path, const std::string& text) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out << text;
  if (!out.flush()) ADD_FAILURE() << path << ": cannot be written";
}

TemporaryDirectory::TemporaryDirectory() {
  const char* below = getenv("TMPDIR");
  path_ = std::string(below ? below : "/tmp") + "/ckptfs-test.XXXXXX";
  if (!mkdtemp(path_.data())) throw std::runtime_error(path_ + ": mkdtemp: " + strerror(errno));
  chmod(path_.c_str(), 0755);
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

CommandResult run(const std::vector<std::string>& arguments) {
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  int out[2];
  if (pipe2(out, O_CLOEXEC) != 0) throw std::runtime_error("pipe2");
  const pid_t child = fork();
  if (child == 0) {
    dup2(open("/dev/null", O_RDONLY), 0);
    dup2(out[1], 1);
    dup2(out[1], 2);
    execvp(argv[0], argv.data());
    _exit(127);
  }
  close(out[1]);
  CommandResult result;
  char buffer[4096];
  for (ssize_t n; (n = read(out[0], buffer, sizeof buffer)) > 0;) result.output.append(buffer, n);
  close(out[0]);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  result.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

namespace {

bool is_mounted(const std::string& path) {
  return read_file("/proc/self/mountinfo").find(" " + path + " ") != std::string::npos;
}

/// True, with its status, when our child has ended.
bool reaped(pid_t pid, int* status) { return waitpid(pid, status, WNOHANG) == pid; }

}  // namespace

Mount::Mount(const std::string& options) : mountpoint_(directory_.path() + "/mnt"), options_(options) {
  std::filesystem::create_directory(mountpoint_);
  start();
}

Mount::~Mount() {
  if (pid_ > 0) stop();
  clean_mountpoint();
  if (testing::Test::HasFailure()) fprintf(stderr, "--- log of ckptfs ---\n%s---\n", log().c_str());
}

bool Mount::start() {
  std::string options = "store=" + directory_.path() + "/store" + (options_.empty() ? "" : "," + options_);
  // Tests that are run with the other engine as well (tests/vm).
  if (const char* more = getenv("CKPTFS_TEST_OPTIONS")) options += std::string(",") + more;
  const pid_t child = fork();
  if (child == 0) {
    const int out = open((directory_.path() + "/log").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
    dup2(open("/dev/null", O_RDONLY), 0);
    dup2(out, 1);
    dup2(out, 2);
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM);  // a test that dies leaves no mount
    execl(CKPT_BIN_DIR "/ckptfs", "ckptfs", "-f", "-o", options.c_str(), mountpoint_.c_str(), nullptr);
    dprintf(2, "%s: %s\n", CKPT_BIN_DIR "/ckptfs", strerror(errno));
    _exit(127);
  }
  bool ended = false;
  const bool up = wait_until([&] { return is_mounted(mountpoint_) || (ended = reaped(child, nullptr)); });
  if (!ended) pid_ = child;
  if (up && !ended) return true;
  if (!ended) crash();
  ADD_FAILURE() << "ckptfs did not mount:\n" << log();
  return false;
}

std::string Mount::log() const {
  const std::string text = read_file(directory_.path() + "/log");
  return text.size() < 20000 ? text : "...\n" + text.substr(text.size() - 20000);
}

Outcome Mount::write_ctl(const std::string& bytes) const {
  Outcome outcome;
  const int fd = open(path("ctl").c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return {errno, "ctl cannot be opened"};
  const ssize_t n = write(fd, bytes.data(), bytes.size());
  if (n < 0) outcome.error = errno;
  char buffer[65536];
  for (off_t at = 0; ssize_t got = pread(fd, buffer, sizeof buffer, at); at += got) {
    if (got < 0) break;
    outcome.sentence.append(buffer, got);
  }
  close(fd);
  return outcome;
}

Outcome Mount::command(const std::string& line) const { return write_ctl(line + "\n"); }

void Mount::clean_mountpoint() {
  while (is_mounted(mountpoint_))
    if (umount2(mountpoint_.c_str(), MNT_DETACH) != 0) break;
}

void Mount::crash() {
  kill(pid_, SIGKILL);
  while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) continue;
  pid_ = -1;
  clean_mountpoint();
}

int Mount::stop() {
  int status = 0;
  umount2(mountpoint_.c_str(), 0);
  kill(pid_, SIGTERM);
  if (!wait_until([&] { return reaped(pid_, &status); })) {
    crash();
    return -1;
  }
  pid_ = -1;
  clean_mountpoint();
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace ckpt_test
