// Copies of one image, each in a pid namespace of its own (`restore NAME pidns`).
#include <errno.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <filesystem>
#include <regex>
#include <set>

#include "program.h"

namespace ckpt_test {
namespace {

namespace fs = std::filesystem;

/// The value of "name:\t..." in /proc/PID/status.
std::string status_of(pid_t pid, const std::string& name) {
  const std::string text = read_file("/proc/" + std::to_string(pid) + "/status");
  std::smatch found;
  return std::regex_search(text, found, std::regex("\n" + name + ":\t(.*)\n")) ? found[1].str() : "";
}

/// The processes of a pid namespace, "pid:[123]".
std::vector<pid_t> members_of(const std::string& name_space) {
  std::vector<pid_t> all;
  std::error_code gone;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const std::string pid = entry.path().filename();
    if (pid.find_first_not_of("0123456789") != std::string::npos) continue;
    if (fs::read_symlink(entry.path() / "ns/pid", gone) == name_space) all.push_back(std::stoi(pid));
  }
  return all;
}

std::string name_space_of(pid_t pid) { return fs::read_symlink("/proc/" + std::to_string(pid) + "/ns/pid"); }

class Copies : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    ASSERT_TRUE(mount_.mounted());
    fs::create_directory(directory_);
    program_ = std::make_unique<CheckProgram>(GetParam(), directory_);
    ASSERT_TRUE(program_->wait_ready());
    name_ = std::to_string(program_->pid());
    const Outcome outcome = mount_.command(name_);
    ASSERT_EQ(outcome.error, 0) << outcome.sentence;
  }
  ~Copies() override {
    for (const pid_t init : inits_) {
      kill(init, SIGKILL);
      waitpid(init, nullptr, __WALL);
    }
  }

  /// Pid of its root process here; its init becomes ours.
  pid_t make_copy(const std::string& option = {}) {
    const Outcome outcome = mount_.command("restore " + name_ + " pidns" + option);
    std::smatch pids;
    const std::regex sentence("restore (\\d+): resumed as pid \\1 of a new pid namespace, here (\\d+)[^]*");
    if (outcome.error != 0 || !std::regex_match(outcome.sentence, pids, sentence)) {
      ADD_FAILURE() << strerror(outcome.error) << "\n" << outcome.sentence;
      return 0;
    }
    const pid_t pid = std::stoi(pids[2]);
    inits_.insert(std::stoi(status_of(pid, "PPid")));
    return pid;
  }

  /// The exit status of the init, which is that of the image's root process.
  int end_of_init() {
    int status = -1;
    EXPECT_TRUE(wait_until([&] {
      for (const pid_t init : inits_) {
        if (waitpid(init, &status, WNOHANG | __WALL) != init) continue;
        inits_.erase(init);
        return true;
      }
      return false;
    }));
    return status;
  }

  Mount mount_;
  TemporaryDirectory scratch_;
  const std::string directory_ = scratch_.path() + "/program";
  std::unique_ptr<CheckProgram> program_;
  std::string name_;
  std::set<pid_t> inits_;
};

// They have a directory in common, and so verify what they have one after the other.
TEST_P(Copies, run_side_by_side) {
  const pid_t first = make_copy(), second = make_copy(" stopped");
  ASSERT_NE(first, 0);
  ASSERT_NE(second, 0);
  EXPECT_NE(first, second);
  for (const pid_t copy : {first, second}) {
    EXPECT_EQ(status_of(copy, "NSpid"), std::to_string(copy) + "\t" + name_);
    EXPECT_EQ(status_of(copy, "TracerPid"), "0");
  }
  EXPECT_TRUE(program_->running()) << "the first one has gone";
  EXPECT_EQ(inits_.size(), 2u);
  // The mount is not kept by them.
  EXPECT_EQ(mount_.stop(), 0);
  program_->kill_and_reap();
  const std::string name_space = name_space_of(second);
  program_->go();
  EXPECT_EQ(end_of_init(), 0) << read_file(directory_ + "/result");
  EXPECT_EQ(read_file(directory_ + "/result"), "ok\n");
  fs::remove(directory_ + "/result");
  for (const pid_t pid : members_of(name_space)) kill(pid, SIGCONT);
  EXPECT_EQ(end_of_init(), 0) << read_file(directory_ + "/result");
  EXPECT_EQ(read_file(directory_ + "/result"), "ok\n");
  EXPECT_TRUE(members_of(name_space).empty());
}

class EndedCopies : public Copies {};

TEST_P(EndedCopies, end_with_their_init) {
  const pid_t copy = make_copy();
  ASSERT_NE(copy, 0);
  const std::string name_space = name_space_of(copy);
  EXPECT_EQ(members_of(name_space).size(), 9u) << "its eight processes and the init";
  kill(*inits_.begin(), SIGKILL);
  EXPECT_TRUE(WIFSIGNALED(end_of_init()));
  EXPECT_TRUE(wait_until([&] { return kill(copy, 0) != 0 && members_of(name_space).empty(); }));
  EXPECT_TRUE(program_->running());
}

INSTANTIATE_TEST_SUITE_P(, Copies, testing::Values("threads", "fd_pipes", "mem_private"),
                         [](const auto& program) { return std::string(program.param); });

INSTANTIATE_TEST_SUITE_P(, EndedCopies, testing::Values("tree_family"),
                         [](const auto& program) { return std::string(program.param); });

class FailedCopies : public Copies {};

TEST_P(FailedCopies, leave_nothing) {
  program_->kill_and_reap();
  int removed = 0;
  for (const auto& entry : fs::directory_iterator(directory_)) removed += fs::remove(entry.path()) ? 1 : 0;
  ASSERT_GT(removed, 0);
  const Outcome outcome = mount_.command("restore " + name_ + " pidns");
  EXPECT_TRUE(outcome.error == ENOENT || outcome.error == ESTALE) << strerror(outcome.error) << "\n" << outcome.sentence;
  EXPECT_NE(outcome.sentence.find(directory_), std::string::npos) << outcome.sentence;
  // Its init would be ours now.
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG | __WALL), 0) << "somebody has ended, or there is nobody but ckptfs";
  EXPECT_EQ(read_file("/proc/self/task/" + std::to_string(getpid()) + "/children"), std::to_string(mount_.daemon()) + " ");
}

INSTANTIATE_TEST_SUITE_P(, FailedCopies, testing::Values("fd_files"),
                         [](const auto& program) { return std::string(program.param); });

}  // namespace
}  // namespace ckpt_test
