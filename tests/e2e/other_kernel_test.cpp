// Images that were taken on another kernel: of this one, with another vDSO put into them.
#include <gtest/gtest.h>

#include <fstream>
#include <regex>

#include "engine/image/digest.h"
#include "program.h"

namespace ckpt_test {
namespace {

std::string vdso_line(pid_t pid) {
  std::ifstream maps("/proc/" + std::to_string(pid) + "/maps");
  for (std::string line; std::getline(maps, line);) {
    if (line.ends_with("[vdso]")) return line;
  }
  return {};
}

class OtherKernel : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(mount_.mounted());
    program_.emplace("vdso", make_directory());
    ASSERT_TRUE(program_->wait_ready());
  }
  std::string make_directory() const {
    const std::string directory = scratch_.path() + "/program";
    EXPECT_EQ(run({"mkdir", directory}).status, 0);
    return directory;
  }
  std::string image() const { return std::to_string(program_->pid()); }

  /// Checkpoint, kill, and a copy of the image for editing.
  std::string take() {
    const Outcome outcome = mount_.command(image());
    EXPECT_EQ(outcome.error, 0) << outcome.sentence;
    program_->kill_and_reap();
    const std::string copy = scratch_.path() + "/" + image();
    EXPECT_EQ(run({"rm", "-rf", copy}).status, 0);
    EXPECT_TRUE(archive(mount_, image(), copy));
    return copy;
  }
  /// Another code under another digest. `change` edits the bytes.
  template <typename Change>
  static void replace_vdso(const std::string& copy, const Change& change) {
    std::string code = read_file(copy + "/vdso");
    ASSERT_FALSE(code.empty());
    change(code);
    const std::string digest = ckpt::digest_bytes(std::as_bytes(std::span(code))).hex();
    std::ofstream(copy + "/vdso", std::ios::binary | std::ios::trunc) << code;
    std::ofstream mm(copy + "/mm.new");
    mm << std::regex_replace(read_file(copy + "/mm"), std::regex("vdso [0-9a-f]+"), "vdso " + digest);
    mm.close();
    ASSERT_EQ(run({"mv", copy + "/mm.new", copy + "/mm"}).status, 0);
    const CommandResult sealed = run({CKPT_BIN_DIR "/ckpt", "seal", copy});
    ASSERT_EQ(sealed.status, 0) << sealed.output;
  }
  void expect_finishes() {
    program_->go();
    EXPECT_EQ(program_->wait_result(), "ok");
  }

  Mount mount_;
  TemporaryDirectory scratch_;
  std::optional<CheckProgram> program_;
};

TEST_F(OtherKernel, the_old_code_leads_to_the_new) {
  const std::string before = vdso_line(program_->pid());
  const std::string copy = take();
  replace_vdso(copy, [](std::string& code) { code.back() = static_cast<char>(code.back() ^ 1); });
  ASSERT_EQ(resume(mount_, copy), "");
  program_->resumed();
  EXPECT_NE(vdso_line(program_->pid()), before) << "this kernel's vDSO stands where the other's should";
  expect_finishes();
}

TEST_F(OtherKernel, a_function_of_the_old_kernel_alone_is_in_nobodys_way) {
  const std::string copy = take();
  replace_vdso(copy, [](std::string& code) {
    for (size_t at; (at = code.find("getrandom")) != std::string::npos;) code.replace(at, 9, "getrXndom");
    code.back() = static_cast<char>(code.back() ^ 1);
  });
  ASSERT_EQ(resume(mount_, copy), "");
  program_->resumed();
  expect_finishes();
}

TEST_F(OtherKernel, and_again_to_the_next_one) {
  const std::string first = take();
  replace_vdso(first, [](std::string& code) { code.back() = static_cast<char>(code.back() ^ 1); });
  ASSERT_EQ(resume(mount_, first), "");
  program_->resumed();
  const std::string between = vdso_line(program_->pid());
  const std::string second = take();
  replace_vdso(second, [](std::string& code) { code.back() = static_cast<char>(code.back() ^ 2); });
  ASSERT_EQ(resume(mount_, second), "");
  program_->resumed();
  EXPECT_NE(vdso_line(program_->pid()), between);
  // And under the kernel that it was taken on.
  const std::string third = take();
  ASSERT_EQ(resume(mount_, third), "");
  program_->resumed();
  expect_finishes();
}

TEST_F(OtherKernel, a_code_that_is_not_the_recorded_one_is_refused) {
  const std::string copy = take();
  replace_vdso(copy, [](std::string& code) { code.back() = static_cast<char>(code.back() ^ 1); });
  std::string code = read_file(copy + "/vdso");
  code.back() = static_cast<char>(code.back() ^ 4);
  std::ofstream(copy + "/vdso", std::ios::binary | std::ios::trunc) << code;
  ASSERT_EQ(run({CKPT_BIN_DIR "/ckpt", "seal", copy}).status, 0);
  EXPECT_NE(resume(mount_, copy).find("is not the vDSO"), std::string::npos);
  EXPECT_FALSE(program_->running());
}

TEST_F(OtherKernel, a_thread_inside_the_old_code_is_refused) {
  const std::string line = vdso_line(program_->pid());
  const std::string copy = take();
  replace_vdso(copy, [](std::string& code) { code.back() = static_cast<char>(code.back() ^ 1); });
  const std::string registers = copy + "/registers/" + image();
  const std::string moved =
      std::regex_replace(read_file(registers), std::regex("\nrip 0x[0-9a-f]+"), "\nrip 0x" + line.substr(0, line.find('-')));
  std::ofstream(registers, std::ios::trunc) << moved;
  ASSERT_EQ(run({CKPT_BIN_DIR "/ckpt", "seal", copy}).status, 0);
  EXPECT_NE(resume(mount_, copy).find("thread " + image() + " was inside it"), std::string::npos);
  EXPECT_FALSE(program_->running());
}

}  // namespace
}  // namespace ckpt_test
