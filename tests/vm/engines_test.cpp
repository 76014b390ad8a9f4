// An image tells which engine took it, and a ckptfs of the other engine resumes it. Runs in the guest (kernel_engine.sh).
#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <string>

#include "program.h"

namespace ckpt_test {
namespace {

struct Way {
  std::string taken_by, resumed_by;
};

class Engines : public testing::TestWithParam<Way> {
 protected:
  void SetUp() override { std::filesystem::create_directory(directory_); }

  TemporaryDirectory scratch_;
  std::string directory_ = scratch_.path() + "/program";
};

std::string line_of(const std::string& text, const std::string& name) {
  const size_t at = ("\n" + text).find("\n" + name + " ");
  return at == std::string::npos ? "no " + name : text.substr(at, text.find('\n', at) - at);
}

TEST_P(Engines, AnImageIsResumedByTheOther) {
  CheckProgram program("mem_private_file", directory_);
  ASSERT_TRUE(program.wait_ready());
  const std::string image = std::to_string(program.pid()), copy = scratch_.path() + "/" + image;
  const bool by_module = GetParam().taken_by == "kernel";
  {
    Mount mount("engine=" + GetParam().taken_by);
    ASSERT_TRUE(mount.mounted());
    const Outcome outcome = mount.command(image);
    ASSERT_EQ(outcome.error, 0) << outcome.sentence;
    EXPECT_NE(read_file(mount.path("images/" + image + "/manifest")).find("\"engine\": \"" + GetParam().taken_by + "\""),
              std::string::npos);
    const std::string stats = read_file(mount.path("stats"));
    EXPECT_EQ(line_of(stats, "kernel_checkpoints"), by_module ? "kernel_checkpoints 1" : "kernel_checkpoints 0");
    // With the module the process makes hardly a call for us: its memory policy, registrations of membarrier(2), local
    // descriptor table and futex table are not told by it.
    int calls = -1;
    ASSERT_EQ(sscanf(line_of(stats, "injected_calls").c_str(), "injected_calls %d", &calls), 1);
    if (by_module) {
      EXPECT_LE(calls, 8);
    } else {
      EXPECT_GT(calls, 8);
    }
    ASSERT_TRUE(archive(mount, image, copy));
  }
  program.kill_and_reap();
  program.between();
  Mount mount("engine=" + GetParam().resumed_by);
  ASSERT_TRUE(mount.mounted());
  ASSERT_EQ(resume(mount, copy), "");
  program.resumed();
  program.go();
  EXPECT_EQ(program.wait_result(), "ok");
}

INSTANTIATE_TEST_SUITE_P(, Engines, testing::Values(Way{"kernel", "ptrace"}, Way{"ptrace", "kernel"}),
                         [](const auto& way) { return way.param.taken_by + "_" + way.param.resumed_by; });

TEST(Engine, WithoutTheModuleKernelIsRefused) {
  // Without it no test of this file would run: what is refused is a device that nobody may open.
  TemporaryDirectory scratch;
  std::filesystem::create_directory(scratch.path() + "/program");
  CheckProgram program("mem_heap", scratch.path() + "/program");
  ASSERT_TRUE(program.wait_ready());
  std::filesystem::rename("/dev/ckpt", "/dev/ckpt.away");
  Mount mount("engine=kernel");
  const Outcome outcome = mount.command(std::to_string(program.pid()));
  std::filesystem::rename("/dev/ckpt.away", "/dev/ckpt");
  EXPECT_EQ(outcome.error, EOPNOTSUPP);
  EXPECT_NE(outcome.sentence.find("engine=kernel"), std::string::npos) << outcome.sentence;
  program.between();
  program.go();
  EXPECT_EQ(program.wait_result(), "ok");
}

}  // namespace
}  // namespace ckpt_test
