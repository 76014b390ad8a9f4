// Every self-checking program of tests/programs, undisturbed, through checkpoints while it runs, and through
// checkpoint, kill, archive and resume.
#include <gtest/gtest.h>

#include <filesystem>
#include <sstream>

#include "program.h"

namespace ckpt_test {
namespace {

std::vector<std::string> programs() {
  std::istringstream names(CKPT_PROGRAMS);
  std::vector<std::string> all;
  for (std::string name; names >> name;) all.push_back(name);
  return all;
}

class Programs : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { std::filesystem::create_directory(directory_); }

  TemporaryDirectory scratch_;
  std::string directory_ = scratch_.path() + "/program";
};

TEST_P(Programs, undisturbed) {
  CheckProgram program(GetParam(), directory_);
  ASSERT_TRUE(program.wait_ready());
  program.between();
  program.go();
  EXPECT_EQ(program.wait_result(), "ok");
}

TEST_P(Programs, go_on) {
  Mount mount;
  ASSERT_TRUE(mount.mounted());
  CheckProgram program(GetParam(), directory_);
  ASSERT_TRUE(program.wait_ready());
  for (int i = 0; i < 3; ++i) {
    const Outcome outcome = mount.command(std::to_string(program.pid()));
    ASSERT_EQ(outcome.error, 0) << strerror(outcome.error) << "\n" << outcome.sentence;
    ASSERT_FALSE(exists(program.path("result"))) << "after checkpoint " << i + 1 << ": " << program.wait_result();
  }
  const std::string image = "images/" + std::to_string(program.pid());
  for (const char* suffix : {"", "@1", "@2"})
    EXPECT_TRUE(exists(mount.path(image + suffix + "/manifest"))) << image << suffix;
  program.between();
  program.go();
  EXPECT_EQ(program.wait_result(), "ok");
}

TEST_P(Programs, resume) {
  Mount mount;
  ASSERT_TRUE(mount.mounted());
  CheckProgram program(GetParam(), directory_);
  ASSERT_TRUE(program.wait_ready());
  const std::string image = std::to_string(program.pid());
  const Outcome outcome = mount.command(image);
  ASSERT_EQ(outcome.error, 0) << strerror(outcome.error) << "\n" << outcome.sentence;
  program.kill_and_reap();
  ASSERT_FALSE(exists(program.path("result"))) << read_file(program.path("result"));
  const std::string copy = scratch_.path() + "/" + image;
  ASSERT_TRUE(archive(mount, image, copy));
  const CommandResult removed = run({"rm", "-r", mount.path("images/" + image)});
  ASSERT_EQ(removed.status, 0) << removed.output;
  program.between();
  ASSERT_EQ(ckpt_test::resume(mount, copy), "");
  program.resumed();
  program.go();
  EXPECT_EQ(program.wait_result(), "ok");
}

INSTANTIATE_TEST_SUITE_P(, Programs, testing::ValuesIn(programs()),
                         [](const auto& program) { return program.param; });

}  // namespace
}  // namespace ckpt_test
