#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <thread>

#include <fmt/ranges.h>

#include "engine/base/error.h"
#include "engine/base/fd.h"
#include "engine/base/record.h"
#include "engine/process/proc_status.h"
#include "tools/bench/bench.h"
#include "tools/ckpt/ctl.h"
#include "tools/ckpt/text.h"

namespace ckpt::bench {

Mount::Mount(std::string program, std::string base) : program_(std::move(program)), base_(std::move(base)) {
  std::filesystem::create_directory(base_ + "/mnt");
  start();
}

Mount::~Mount() { stop(); }

void Mount::start() {
  daemon_ = ::fork();
  if (daemon_ < 0) fail_errno("starting {}", program_);
  if (daemon_ == 0) {
    // What it has to say is of use only if it does not come up.
    const int log = ::open((base_ + "/log").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ::dup2(log, STDERR_FILENO);
    const std::string options = "store=" + base_ + "/store", mountpoint = base_ + "/mnt";
    ::execl(program_.c_str(), "ckptfs", "-f", "-o", options.c_str(), mountpoint.c_str(), nullptr);
    ::_exit(127);
  }
  const auto ctl = path("ctl");
  for (int tries = 0; ::access(ctl.c_str(), F_OK) != 0; ++tries) {
    int status = 0;
    if (::waitpid(daemon_, &status, WNOHANG) == daemon_)
      fail(EIO, "{}: {}", program_, read_file(base_ + "/log"));
    if (tries > 60'000) fail(ETIMEDOUT, "{} does not come up", program_);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

void Mount::stop() {
  if (daemon_ < 0) return;
  ::kill(daemon_, SIGTERM);  // unmounts cleanly
  ::waitpid(daemon_, nullptr, 0);
  daemon_ = -1;
}

void Mount::ctl(const std::string& command) const { tool::run_ctl(base_ + "/mnt", command); }

uint64_t Mount::stat(const std::string& name) const {
  return Record::parse(read_file(path("stats")), "stats").get_u64(name);
}

uint64_t Mount::peak_memory() const {
  const auto words = split_words(status_field(read_file(fmt::format("/proc/{}/status", daemon_)), "VmHWM"));
  return words.empty() ? 0 : parse_u64(words[0]).value_or(0) * 1024;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.at(values.size() / 2);
}

void run(const std::vector<std::string>& command) {
  std::vector<char*> argv;
  for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  const pid_t pid = ::fork();
  if (pid < 0) fail_errno("starting {}", command[0]);
  if (pid == 0) {
    ::execvp(argv[0], argv.data());
    ::_exit(127);
  }
  int status = 0;
  if (::waitpid(pid, &status, 0) != pid || status != 0) fail(EIO, "`{}` failed", fmt::join(command, " "));
}

std::string show_ms(double s) { return tool::human_time(static_cast<uint64_t>(std::llround(s * 1e9))); }
std::string show_size(uint64_t bytes) { return tool::human_bytes(bytes); }

}  // namespace ckpt::bench
