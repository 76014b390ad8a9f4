// Series of checkpoints: begun, thinned out, ended by the rule, by hand, with the process and with the mount.
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <memory>
#include <thread>

#include "checked_fixture.h"

namespace ckpt_test {
namespace {

namespace fs = std::filesystem;

class SeriesOfCheckpoints : public CheckedFixture {
 protected:
  const char* program() const override { return "mem_heap"; }
  std::vector<std::string> images() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(mount_.path("images"))) names.push_back(entry.path().filename());
    std::ranges::sort(names);
    return names;
  }
  bool wait_log(const std::string& sentence) const {
    return wait_until([&] { return read_file(mount_.path("ctl")).find(sentence) != std::string::npos; });
  }
  void begin(const std::string& options) {
    const Outcome outcome = mount_.command(pid_ + " " + options);
    ASSERT_EQ(outcome.error, 0) << outcome.sentence;
    EXPECT_NE(outcome.sentence.find("a series has begun"), std::string::npos) << outcome.sentence;
  }
};

TEST_F(SeriesOfCheckpoints, ends_by_its_rule_and_keeps_the_newest) {
  ASSERT_NO_FATAL_FAILURE(begin("every=10ms keep=3 until=12"));
  EXPECT_TRUE(wait_log(pid_ + ": the series has ended after 12 checkpoints\n"));
  EXPECT_EQ(images(), (std::vector<std::string>{pid_, pid_ + "@10", pid_ + "@11"}));
  EXPECT_EQ(figure("series"), 0);
  EXPECT_EQ(figure("checkpoints"), 12);
  const CommandResult log = run({CKPT_BIN_DIR "/ckpt", "--mount", mount_.path(), "log", pid_});
  EXPECT_EQ(log.status, 0);
  EXPECT_EQ(std::ranges::count(log.output, '\n'), 4) << log.output;
  EXPECT_LT(log.output.find(pid_ + "@10 "), log.output.find(pid_ + "@11 ")) << log.output;
  // Every one is whole.
  program_->kill_and_reap();
  const Outcome restored = mount_.command("restore " + pid_ + "@10");
  ASSERT_EQ(restored.error, 0) << restored.sentence;
  program_->resumed();
  expect_program_ok();
}

TEST_F(SeriesOfCheckpoints, ends_by_hand) {
  EXPECT_EQ(mount_.command(pid_ + " every=never").error, ENOENT);
  ASSERT_NO_FATAL_FAILURE(begin("every=10ms keep=5 name=work"));
  EXPECT_EQ(figure("series"), 1);
  EXPECT_TRUE(wait_until([&] { return figure("series_" + pid_) >= 8; }));
  const Outcome second = mount_.command(pid_ + " every=1s");
  EXPECT_EQ(second.error, EBUSY) << second.sentence;
  const CommandResult end = run({CKPT_BIN_DIR "/ckpt", "--mount", mount_.path(), "save", "--every", "never", pid_});
  EXPECT_EQ(end.status, 0) << end.output;
  EXPECT_EQ(figure("series"), 0);
  // Whatever was under way is over: nothing is added or taken away any more.
  const auto left = images();
  EXPECT_TRUE(left.size() == 5 || left.size() == 6) << left.size();
  EXPECT_EQ(figure("failed_in_series"), 0);
  expect_program_ok();
  EXPECT_EQ(images(), left);
}

TEST_F(SeriesOfCheckpoints, leaves_an_image_that_somebody_renamed) {
  ASSERT_NO_FATAL_FAILURE(begin("every=10ms keep=2"));
  const std::string from = mount_.path("images/" + pid_);
  EXPECT_TRUE(wait_until([&] { return ::rename(from.c_str(), mount_.path("images/precious").c_str()) == 0; }));
  const long then = figure("series_" + pid_);
  EXPECT_TRUE(wait_until([&] { return figure("series_" + pid_) >= then + 5; }));
  EXPECT_EQ(mount_.command(pid_ + " every=never").error, 0);
  const auto left = images();
  EXPECT_TRUE(std::ranges::binary_search(left, "precious"));
  EXPECT_LE(left.size(), 4u);
  expect_program_ok();
}

TEST_F(SeriesOfCheckpoints, leaves_an_image_that_somebody_reads) {
  ASSERT_NO_FATAL_FAILURE(begin("every=10ms keep=2"));
  std::string image;
  int open_file = -1;
  EXPECT_TRUE(wait_until([&] {
    // The newest of them, which is not the next one to go.
    long newest = -1;
    for (const std::string& name : images()) {
      if (name.starts_with(pid_ + "@")) newest = std::max(newest, std::stol(name.substr(pid_.size() + 1)));
    }
    if (newest < 0) return false;
    image = mount_.path("images/" + pid_ + "@" + std::to_string(newest));
    open_file = ::open((image + "/maps").c_str(), O_RDONLY | O_CLOEXEC);
    return open_file >= 0;
  }));
  const long then = figure("series_" + pid_);
  EXPECT_TRUE(wait_until([&] { return figure("series_" + pid_) >= then + 5; }));
  ::close(open_file);
  // A copy goes on by name, and what is read last must be there still.
  const CommandResult copy = run({"cp", "-a", image, scratch_.path() + "/copy"});
  EXPECT_EQ(copy.status, 0) << copy.output;
  EXPECT_EQ(mount_.command(pid_ + " every=never").error, 0);
  EXPECT_TRUE(exists(image));
  EXPECT_LE(images().size(), 4u);
  const CommandResult whole = run({CKPT_BIN_DIR "/ckpt", "check", scratch_.path() + "/copy"});
  EXPECT_EQ(whole.status, 0) << whole.output;
  expect_program_ok();
}

TEST_F(SeriesOfCheckpoints, shows_one_image_to_who_copies_it) {
  ASSERT_NO_FATAL_FAILURE(begin("every=10ms keep=2"));
  const auto next = [this] {
    const long then = figure("series_" + pid_);
    EXPECT_TRUE(wait_until([&] { return figure("series_" + pid_) >= then + 3; }));
  };
  const std::string image = mount_.path("images/" + pid_);
  // Images are told apart by their inode numbers.
  const auto image_of = [](int fd) {
    struct stat st {};
    EXPECT_EQ(fstat(fd, &st), 0);
    close(fd);
    return st.st_ino >> 24;
  };
  const auto open_now = [&](const std::string& path) {
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    EXPECT_GE(fd, 0) << path << ": " << strerror(errno);
    return image_of(fd);
  };
  const auto first = open_now(image);
  for (const char* file : {"maps", "threads", "process", "manifest"}) {
    next();
    EXPECT_EQ(open_now(image + "/" + file), first) << file;
    // Others look in between.
    const CommandResult other = run({"stat", "-c", "%i", image});
    EXPECT_GT(std::stoul(other.output) >> 24, first) << other.output;
  }
  // A second look is a new one.
  const auto second = open_now(image + "/maps");
  EXPECT_GT(second, first);
  EXPECT_EQ(open_now(image), second);
  next();
  EXPECT_EQ(open_now(image + "/smaps"), second);
  // So is any after a command that said when it was done.
  ASSERT_EQ(mount_.command(pid_).error, 0);
  EXPECT_GT(open_now(image + "/threads"), second);
  EXPECT_EQ(mount_.command(pid_ + " every=never").error, 0);
  expect_program_ok();
}

TEST_F(SeriesOfCheckpoints, never_deletes_what_another_has_taken) {
  ASSERT_EQ(mount_.command(pid_).error, 0);
  ASSERT_NO_FATAL_FAILURE(begin("every=10ms keep=1"));
  const long then = figure("series_" + pid_);
  EXPECT_TRUE(wait_until([&] { return figure("series_" + pid_) >= then + 3; }));
  EXPECT_EQ(mount_.command(pid_).error, 0);
  EXPECT_TRUE(wait_until([&] { return figure("series_" + pid_) >= then + 6; }));
  EXPECT_EQ(mount_.command(pid_ + " every=never").error, 0);
  // Two of ours at the most: one may have been taken when its end came.
  const auto left = images();
  EXPECT_TRUE(left.size() == 3 || left.size() == 4) << left.size();
  EXPECT_TRUE(std::ranges::binary_search(left, pid_ + "@1"));
  expect_program_ok();
}

TEST_F(SeriesOfCheckpoints, ends_with_the_process) {
  ASSERT_NO_FATAL_FAILURE(begin("every=10ms keep=2"));
  program_->kill_and_reap();
  EXPECT_TRUE(wait_log(", with the process\n"));
  EXPECT_TRUE(wait_until([&] { return figure("series") == 0; }));
}

TEST_F(SeriesOfCheckpoints, ends_with_the_mount) {
  ASSERT_NO_FATAL_FAILURE(begin("every=10ms keep=2"));
  EXPECT_EQ(mount_.stop(), 0);
  EXPECT_TRUE(program_->running());
  ASSERT_TRUE(mount_.start());
  EXPECT_EQ(figure("series"), 0);
  EXPECT_FALSE(images().empty());
  expect_program_ok();
}

TEST_F(SeriesOfCheckpoints, does_not_begin_where_the_first_one_fails) {
  EXPECT_EQ(mount_.command("999999999 every=1s").error, ESRCH);
  EXPECT_EQ(mount_.command(std::to_string(mount_.daemon()) + " every=1s").error, EINVAL);
  EXPECT_EQ(figure("series"), 0);
}

// ---- what is followed from one checkpoint to the next ----

class Followed : public SeriesOfCheckpoints {
 protected:
  const char* program() const override { return "mem_snapshot"; }   // writes all of its 32 MiB without a rest
  void SetUp() override {
    SeriesOfCheckpoints::SetUp();
    if (read_file(mount_.path("stats")).find("tracking none") != std::string::npos) GTEST_SKIP() << "not with this kernel";
  }
  void follow() {
    ASSERT_EQ(mount_.command(pid_ + " track").error, 0);
    EXPECT_EQ(figure("tracked_processes"), 1);
    EXPECT_TRUE(is_registered());
  }
  bool is_registered() const { return read_file("/proc/" + pid_ + "/smaps").find(" uw") != std::string::npos; }
};

TEST_F(Followed, its_images_are_whole) {
  ASSERT_NO_FATAL_FAILURE(follow());
  for (int i = 0; i < 3; ++i) {
    const Outcome outcome = mount_.command(pid_);
    ASSERT_EQ(outcome.error, 0) << outcome.sentence;
  }
  EXPECT_EQ(figure("incremental_checkpoints"), 3);
  EXPECT_FALSE(mount_.command(pid_ + " every=never").error);
  EXPECT_FALSE(is_registered());
  EXPECT_EQ(figure("tracked_processes"), 0);
  EXPECT_EQ(mount_.command(pid_ + " every=never").error, ENOENT);
  // The ones it was built upon are gone.
  for (int i = 1; i <= 3; ++i) {
    EXPECT_EQ(mount_.command("delete " + pid_ + "@" + std::to_string(i)).error, 0);
  }
  EXPECT_EQ(mount_.command("gc now").error, 0);
  move_through_archive(mount_, *program_, scratch_.path());
  expect_program_ok();
}

TEST_F(Followed, in_a_series) {
  ASSERT_NO_FATAL_FAILURE(begin("every=20ms keep=3 until=8"));
  EXPECT_TRUE(wait_log(pid_ + ": the series has ended after 8 checkpoints\n"));
  EXPECT_GE(figure("incremental_checkpoints"), 1);
  EXPECT_FALSE(is_registered());
  program_->kill_and_reap();
  const Outcome restored = mount_.command("restore " + pid_ + "@6");
  ASSERT_EQ(restored.error, 0) << restored.sentence;
  program_->resumed();
  expect_program_ok();
}

TEST_F(Followed, each_is_read_in_full_where_that_is_wanted) {
  ASSERT_NO_FATAL_FAILURE(begin("every=20ms keep=1 until=3 full"));
  EXPECT_TRUE(wait_log("has ended after 3 checkpoints\n"));
  EXPECT_EQ(figure("incremental_checkpoints"), 0);
  expect_program_ok();
}

TEST_F(Followed, a_death_of_ours_leaves_no_trace) {
  ASSERT_NO_FATAL_FAILURE(follow());
  ASSERT_EQ(mount_.command(pid_).error, 0);
  EXPECT_TRUE(is_registered());
  ::kill(mount_.daemon(), SIGKILL);
  EXPECT_TRUE(wait_until([&] { return !is_registered(); }));
  mount_.stop();
  EXPECT_TRUE(program_->running());
  ASSERT_TRUE(mount_.start());
  EXPECT_EQ(figure("tracked_processes"), 0);
  const Outcome outcome = mount_.command(pid_);
  EXPECT_EQ(outcome.error, 0) << outcome.sentence;
  expect_program_ok();
}

// ---- restore NAME replace ----

volatile pid_t reaped_pid = 0;

void reap_it(int) {
  const int saved = errno;
  waitpid(reaped_pid, nullptr, WNOHANG);
  errno = saved;
}

/// A program that counts in memory, and writes what it counts to a file.
class GoingBack : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(mount_.mounted());
    program_ = std::make_unique<Program>(std::vector<std::string>{CKPT_BIN_DIR "/ckpt-sample", file()}, scratch_.path());
    pid_ = std::to_string(program_->pid());
    ASSERT_TRUE(wait_beyond(2));
    ASSERT_EQ(mount_.command(pid_).error, 0);
    ASSERT_TRUE(wait_beyond(numbers().back() + 3));
  }
  void TearDown() override { signal(SIGCHLD, SIG_DFL); }

  /// From now on its parent, this test, waits for its end as it comes.
  void reap() {
    reaped_pid = program_->pid();
    struct sigaction action = {};
    action.sa_handler = reap_it;
    action.sa_flags = SA_RESTART;
    sigaction(SIGCHLD, &action, nullptr);
  }
  /// By another process: this one could not wait for the end of its child meanwhile.
  CommandResult replace_by(const std::string& image) const {
    return run({CKPT_BIN_DIR "/ckpt", "--mount", mount_.path(), "restore", "-o", "replace", image});
  }
  /// images/edited: the image as `script` has changed it, with its directory as $1, and sealed.
  void make_edited(const char* script) const {
    const std::string archive = scratch_.path() + "/edited";
    ASSERT_EQ(run({"cp", "-a", mount_.path("images/" + pid_), archive}).status, 0);
    ASSERT_EQ(run({"sh", "-c", script, "sh", archive}).status, 0);
    ASSERT_EQ(run({CKPT_BIN_DIR "/ckpt", "seal", archive}).status, 0);
    ASSERT_EQ(run({"cp", "-a", archive, mount_.path("images/edited")}).status, 0);
  }
  std::string file() const { return scratch_.path() + "/numbers"; }
  std::vector<long> numbers() const {
    std::ifstream in(file());
    std::vector<long> all;
    for (long line = 0, seen = 0; in >> line >> seen;) all.push_back(line);
    return all;
  }
  bool wait_beyond(long number) const {
    return wait_until([&] {
      const auto all = numbers();
      return !all.empty() && all.back() > number;
    });
  }
  /// How often the count went back.
  long steps_back() const {
    const auto all = numbers();
    long steps = 0;
    for (size_t i = 1; i < all.size(); ++i) steps += all[i] <= all[i - 1] ? 1 : 0;
    return steps;
  }

  Mount mount_;
  TemporaryDirectory scratch_;
  std::unique_ptr<Program> program_;
  std::string pid_;
};

TEST_F(GoingBack, is_refused_while_the_process_runs) {
  const Outcome plain = mount_.command("restore " + pid_);
  EXPECT_EQ(plain.error, EEXIST) << plain.sentence;
  // This test waits for nothing yet.
  const CommandResult unwaited = replace_by(pid_);
  EXPECT_EQ(unwaited.status, 1);
  EXPECT_NE(unwaited.output.find("does not wait for its end"), std::string::npos) << unwaited.output;
  // Nor can it while it gives the command.
  reap();
  const Outcome own = mount_.command("restore " + pid_ + " replace");
  EXPECT_EQ(own.error, EBUSY) << own.sentence;
  ASSERT_TRUE(wait_beyond(numbers().back() + 2));
  EXPECT_EQ(steps_back(), 0);
}

TEST_F(GoingBack, is_refused_where_the_parent_waits_for_another_child) {
  const pid_t other = fork();
  if (other == 0) {
    pause();
    _exit(0);
  }
  std::atomic<pid_t> waiter = 0;
  std::thread waiting([&] {
    waiter = gettid();
    waitpid(other, nullptr, 0);
  });
  EXPECT_TRUE(wait_until([&] {
    return waiter != 0 && read_file("/proc/self/task/" + std::to_string(waiter) + "/syscall").starts_with("61 ");
  }));
  const CommandResult outcome = replace_by(pid_);
  EXPECT_EQ(outcome.status, 1);
  EXPECT_NE(outcome.output.find("does not wait for its end"), std::string::npos) << outcome.output;
  kill(other, SIGKILL);
  waiting.join();
  EXPECT_TRUE(program_->running());
}

TEST_F(GoingBack, is_refused_where_the_pid_is_another_programs) {
  reap();
  ASSERT_NO_FATAL_FAILURE(make_edited("ln -sf /bin/cat \"$1/exe\""));
  const CommandResult outcome = replace_by("edited");
  EXPECT_EQ(outcome.status, 1);
  EXPECT_NE(outcome.output.find("in use by another program ("), std::string::npos) << outcome.output;
  EXPECT_NE(outcome.output.find("(/bin/cat)"), std::string::npos) << outcome.output;
  ASSERT_TRUE(wait_beyond(numbers().back() + 2));
  EXPECT_EQ(steps_back(), 0);
}

TEST_F(GoingBack, replaces_the_running_process) {
  reap();
  const CommandResult outcome = replace_by(pid_);
  ASSERT_EQ(outcome.status, 0) << outcome.output;
  EXPECT_NE(outcome.output.find("what ran before is in images/" + pid_), std::string::npos) << outcome.output;
  EXPECT_TRUE(wait_until([&] { return steps_back() == 1; }));
  EXPECT_TRUE(program_->running());
  // And forth again, to what ran before.
  const auto so_far = numbers();
  const long newest = *std::ranges::max_element(so_far);
  const CommandResult forth = replace_by(pid_);
  ASSERT_EQ(forth.status, 0) << forth.output;
  EXPECT_TRUE(wait_beyond(newest));
  program_->resumed();
}

TEST_F(GoingBack, leaves_the_running_process_alone_where_the_image_is_no_good) {
  reap();
  ASSERT_NO_FATAL_FAILURE(make_edited("rm \"$1/cwd\" && ln -s /no/such/directory \"$1/cwd\""));
  const CommandResult outcome = replace_by("edited");
  EXPECT_EQ(outcome.status, 1);
  EXPECT_NE(outcome.output.find("/no/such/directory"), std::string::npos) << outcome.output;
  ASSERT_TRUE(wait_beyond(numbers().back() + 2));
  EXPECT_EQ(steps_back(), 0);
  EXPECT_FALSE(exists(mount_.path("images/" + pid_ + "@1")));
}

TEST_F(GoingBack, resumes_what_ran_before_where_the_last_steps_fail) {
  reap();
  const std::string archive = scratch_.path() + "/edited";
  ASSERT_EQ(run({"cp", "-a", mount_.path("images/" + pid_), archive}).status, 0);
  // A policy that no kernel has shows when the thread is there.
  ASSERT_EQ(run({"sed", "-i", "s/^scheduler .*/scheduler 99 0 0 0 0 0 0/", archive + "/threads/" + pid_}).status, 0);
  ASSERT_EQ(run({CKPT_BIN_DIR "/ckpt", "seal", archive}).status, 0);
  ASSERT_EQ(run({"cp", "-a", archive, mount_.path("images/edited")}).status, 0);
  const CommandResult outcome = replace_by("edited");
  EXPECT_EQ(outcome.status, 1);
  EXPECT_NE(outcome.output.find("what ran before was resumed from images/" + pid_), std::string::npos)
      << outcome.output;
  ASSERT_TRUE(wait_beyond(numbers().back() + 2));
  EXPECT_EQ(steps_back(), 0);
  program_->resumed();
}

}  // namespace
}  // namespace ckpt_test
