// POSIX shared memory that others use meanwhile, and a resume that fails over it. What else there is to it: tests/programs/mem_posix.cpp.
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "program.h"

namespace ckpt_test {
namespace {

namespace fs = std::filesystem;

class NamedMemory : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(mount_.mounted());
    fs::create_directory(directory_);
    program_ = std::make_unique<CheckProgram>("mem_posix", directory_);
    ASSERT_TRUE(program_->wait_ready());
    name_ = std::to_string(program_->pid());
    const Outcome outcome = mount_.command(name_);
    ASSERT_EQ(outcome.error, 0) << outcome.sentence;
    program_->kill_and_reap();
  }
  ~NamedMemory() override {
    std::error_code gone;
    for (const char* what : {"gone", "changed", "same"}) fs::remove(file(what), gone);
    fs::remove("/dev/shm/sem.ckpt-" + name_ + "-sem", gone);
  }
  std::string file(const std::string& what) const { return "/dev/shm/ckpt-" + name_ + "-" + what; }

  Mount mount_;
  TemporaryDirectory scratch_;
  const std::string directory_ = scratch_.path() + "/program";
  std::unique_ptr<CheckProgram> program_;
  std::string name_;
};

TEST_F(NamedMemory, that_somebody_has_open_stays_as_it_is) {
  const int fd = open(file("changed").c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  ASSERT_EQ(pwrite(fd, "mine", 4, 5000), 4);
  const Outcome outcome = mount_.command("restore " + name_);
  ASSERT_EQ(outcome.error, 0) << outcome.sentence;
  program_->resumed();
  char now[4] = {};
  EXPECT_EQ(pread(fd, now, 4, 5000), 4);
  EXPECT_EQ(std::string(now, 4), "mine");
  program_->go();
  EXPECT_NE(program_->wait_result().find("changed"), std::string::npos) << "its memory is not what it shares with us";
  close(fd);
}

TEST_F(NamedMemory, is_as_before_where_the_resume_fails) {
  fs::remove(file("gone"));
  write_file(file("changed"), "other");
  fs::remove(directory_ + "/beside");
  const Outcome outcome = mount_.command("restore " + name_);
  EXPECT_EQ(outcome.error, ENOENT) << outcome.sentence;
  EXPECT_NE(outcome.sentence.find("beside"), std::string::npos) << outcome.sentence;
  EXPECT_FALSE(exists(file("gone")));
  EXPECT_EQ(read_file(file("changed")), "other");
}

TEST_F(NamedMemory, is_not_put_into_another_users_file) {
  ASSERT_EQ(chown(file("changed").c_str(), 12345, 12345), 0);
  write_file(file("changed"), "other");
  const Outcome outcome = mount_.command("restore " + name_);
  EXPECT_EQ(outcome.error, ESTALE) << outcome.sentence;
  EXPECT_NE(outcome.sentence.find("another user's now (12345)"), std::string::npos) << outcome.sentence;
  EXPECT_EQ(read_file(file("changed")), "other");
}

TEST_F(NamedMemory, is_found_under_another_name) {
  fs::rename(file("changed"), file("changed") + "-renamed");
  const Outcome outcome = mount_.command("restore " + name_);
  ASSERT_EQ(outcome.error, 0) << outcome.sentence;
  program_->resumed();
  EXPECT_FALSE(exists(file("changed")));
  fs::rename(file("changed") + "-renamed", file("changed"));
  program_->go();
  EXPECT_EQ(program_->wait_result(), "ok");
}

TEST_F(NamedMemory, becomes_no_other_file) {
  const std::string target = scratch_.path() + "/target";
  write_file(target, "precious");
  fs::remove(file("changed"));
  fs::create_symlink(target, file("changed"));
  const Outcome outcome = mount_.command("restore " + name_);
  EXPECT_EQ(outcome.error, ESTALE) << outcome.sentence;
  EXPECT_NE(outcome.sentence.find(file("changed")), std::string::npos) << outcome.sentence;
  EXPECT_EQ(read_file(target), "precious");
}

}  // namespace
}  // namespace ckpt_test
