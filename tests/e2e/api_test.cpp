// libckpt: programs that checkpoint themselves and resume images, through the mount.
#include <errno.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>

#include <filesystem>

#include "libckpt/ckpt.h"
#include "program.h"

namespace ckpt_test {
namespace {

class Api : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(mount_.mounted());
    setenv("CKPT_MOUNT", mount_.path().c_str(), 1);
    std::filesystem::create_directory(directory_);
    std::filesystem::create_directory(images_);
  }
  void TearDown() override { unsetenv("CKPT_MOUNT"); }

  static std::string calls() { return CKPT_BIN_DIR "/api_calls"; }
  static std::string hex(int flags) {
    char text[16];
    snprintf(text, sizeof text, "%#x", flags);
    return text;
  }
  std::string output() const { return read_file(directory_ + "/stdout"); }
  bool wait_output(const std::string& text) const {
    const bool there = wait_until([&] { return output() == text; });
    EXPECT_TRUE(there) << "the output is: " << output() << "\nctl: " << read_file(mount_.path("ctl"));
    return there;
  }

  Mount mount_;
  TemporaryDirectory scratch_;
  const std::string directory_ = scratch_.path() + "/program", images_ = scratch_.path() + "/images";
};

TEST_F(Api, ReturnsInTheProcessAndInTheResumedOne) {
  Program program({calls(), "checkpoint", "0"}, directory_, true);
  ASSERT_TRUE(wait_output("thread 0\nhandler 0\n"));
  const std::string image = std::to_string(program.pid());
  program.kill_and_reap();
  // Taken within the thread's call: everything after it happens again.
  ASSERT_EQ(mount_.command("restore " + image + "@1").error, 0) << read_file(mount_.path("ctl"));
  program.resumed();
  // At the image's place in the file, over what was printed then.
  ASSERT_TRUE(wait_output("thread 0x40\nhandler 0\n"));
  write_file(directory_ + "/go", "");
  EXPECT_TRUE(program.wait_end());
}

TEST_F(Api, TheResumedHandlerSeesTheFlagsOfTheResume) {
  Program program({calls(), "checkpoint", "0"}, directory_, true);
  ASSERT_TRUE(wait_output("thread 0\nhandler 0\n"));
  const std::string image = std::to_string(program.pid());
  program.kill_and_reap();
  ASSERT_EQ(mount_.command("restore " + image + " stopped").error, 0) << read_file(mount_.path("ctl"));
  program.resumed();
  ASSERT_TRUE(wait_until([&] { return program.state() == 'T'; })) << program.state();
  kill(program.pid(), SIGCONT);
  EXPECT_TRUE(wait_until([&] { return output().ends_with("handler 0x42\n"); })) << output();
  write_file(directory_ + "/go", "");
  EXPECT_TRUE(program.wait_end());
}

TEST_F(Api, StopAndExit) {
  Program stopping({calls(), "checkpoint", hex(CKPT_STOP)}, directory_, true);
  ASSERT_TRUE(wait_until([&] { return stopping.state() == 'T'; })) << output();
  EXPECT_EQ(output(), "");
  kill(stopping.pid(), SIGCONT);
  ASSERT_TRUE(wait_output("thread 0x2\n"));
  stopping.kill_and_reap();

  Program exiting({calls(), "checkpoint", hex(CKPT_EXIT)}, directory_, true);
  const std::string image = std::to_string(exiting.pid());
  ASSERT_TRUE(exiting.wait_end()) << output();
  EXPECT_TRUE(exists(mount_.path("images/" + image + "/manifest")));
  EXPECT_EQ(output(), "");
}

TEST_F(Api, ADirectoryIsFilledAndResumed) {
  Program program({calls(), "checkpoint", "0", images_}, directory_, true);
  ASSERT_TRUE(wait_output("thread 0\n"));
  EXPECT_TRUE(exists(images_ + "/manifest"));
  EXPECT_TRUE(std::filesystem::is_symlink(images_ + "/exe"));
  EXPECT_TRUE(std::filesystem::is_empty(mount_.path("images")));
  // A second time it is not empty.
  std::filesystem::create_directory(scratch_.path() + "/second");
  Program second({calls(), "checkpoint", "0", images_}, scratch_.path() + "/second", true);
  const std::string& there = scratch_.path() + "/second/stdout";
  EXPECT_TRUE(wait_until([&] { return read_file(there) == "thread: File exists\n"; })) << read_file(there);

  const CommandResult in_use = run({calls(), "restore", "0", images_});
  EXPECT_EQ(in_use.output, "restore: File exists\n");
  program.kill_and_reap();
  const CommandResult restored = run({calls(), "restore", "0", images_});
  EXPECT_EQ(restored.output, "restore 0\n") << read_file(mount_.path("ctl"));
  program.resumed();
  EXPECT_TRUE(wait_until([&] { return output().find("thread 0x40\n") != std::string::npos; })) << output();
  EXPECT_TRUE(std::filesystem::is_empty(mount_.path("images")));
}

TEST_F(Api, ADirectoryIsWholeBeforeTheProcessEndsOrStops) {
  Program exiting({calls(), "checkpoint", hex(CKPT_EXIT), images_}, directory_, true);
  ASSERT_TRUE(exiting.wait_end()) << output();
  EXPECT_EQ(output(), "");
  EXPECT_TRUE(std::filesystem::is_empty(mount_.path("images")));
  const CommandResult restored = run({calls(), "restore", "0", images_});
  ASSERT_EQ(restored.output, "restore 0\n") << read_file(mount_.path("ctl"));
  exiting.resumed();
  ASSERT_TRUE(wait_output("thread 0x40\n"));
  exiting.kill_and_reap();

  const std::string second = scratch_.path() + "/second";
  std::filesystem::create_directory(second);
  Program stopping({calls(), "checkpoint", hex(CKPT_STOP), second}, directory_, true);
  ASSERT_TRUE(wait_until([&] { return stopping.state() == 'T'; })) << output();
  EXPECT_TRUE(exists(second + "/manifest"));
  kill(stopping.pid(), SIGCONT);
  ASSERT_TRUE(wait_output("thread 0x2\n"));
}

TEST_F(Api, RegistersAndTablesWithoutMemory) {
  Program program({calls(), "checkpoint", hex(CKPT_CPU | CKPT_HOLD_LINKCNT)}, directory_, true);
  ASSERT_TRUE(wait_output("thread 0x24\nhandler 0x24\n"));
  const std::string pid = std::to_string(program.pid()), image = mount_.path("images/" + pid);
  EXPECT_TRUE(exists(image + "/registers/" + pid));
  EXPECT_TRUE(exists(image + "/maps"));
  EXPECT_FALSE(exists(image + "/segments"));
  EXPECT_TRUE(read_file(mount_.path("cores/" + pid)).starts_with("\177ELF"));
  program.kill_and_reap();
  const Outcome outcome = mount_.command("restore " + pid);
  EXPECT_EQ(outcome.error, EOPNOTSUPP);
  EXPECT_NE(outcome.sentence.find("without memory"), std::string::npos) << outcome.sentence;
}

TEST_F(Api, WhatCannotBeDoneIsRefused) {
  const auto refusal = [&](const std::vector<std::string>& arguments) {
    std::filesystem::remove(directory_ + "/stdout");
    Program program(arguments, directory_, true);
    wait_until([&] { return output().find('\n') != std::string::npos; });
    return output().substr(0, output().find('\n'));
  };
  EXPECT_EQ(refusal({calls(), "checkpoint", "0x100"}), "thread: Invalid argument");
  EXPECT_EQ(refusal({calls(), "checkpoint", hex(CKPT_RETURN)}), "thread: Invalid argument");
  EXPECT_EQ(refusal({calls(), "checkpoint", hex(CKPT_EXIT | CKPT_STOP)}), "thread: Invalid argument");
  // A directory of the mount itself.
  EXPECT_EQ(refusal({calls(), "checkpoint", "0", mount_.path("images")}), "thread: Operation not supported");
  EXPECT_EQ(run({calls(), "restore", "0x4", images_}).output, "restore: Invalid argument\n");
  EXPECT_EQ(run({calls(), "restore", "0"}).output, "restore: Bad file descriptor\n");
  setenv("CKPT_MOUNT", scratch_.path().c_str(), 1);
  EXPECT_EQ(refusal({calls(), "checkpoint", "0"}), "thread: No such file or directory");
}

TEST_F(Api, NobodyHasAnotherWordWritten) {
  Program program({"/bin/sleep", "1000"}, directory_, true);
  const std::string pid = std::to_string(program.pid());
  EXPECT_EQ(mount_.command(pid + " answer=0x1000").error, EINVAL);
  EXPECT_EQ(mount_.command(std::to_string(getpid()) + " answer=0x1001").error, EINVAL);
  alignas(8) static long long word = 5;
  char line[64];
  snprintf(line, sizeof line, "%d answer=%p", getpid(), static_cast<void*>(&word));
  EXPECT_EQ(mount_.command(line).error, EINVAL);
  EXPECT_EQ(word, 5);
}

TEST_F(Api, TheProgramOfTheManual) {
  Program program({CKPT_BIN_DIR "/sigckpt"}, directory_, true);
  ASSERT_TRUE(wait_output("ready\n"));
  kill(program.pid(), SIGCKPT);
  // The image is there before the program goes on to say so; what it prints stays in its buffer until it has tidied up.
  ASSERT_TRUE(wait_output("ready\ncheckpointed\n"));
  ASSERT_NO_FATAL_FAILURE(move_through_archive(mount_, program, scratch_.path()));
  EXPECT_TRUE(wait_until([&] { return output().find("resumed\n") != std::string::npos; })) << output();
}

}  // namespace
}  // namespace ckpt_test
