// What tests share that have a mount and one self-checking program.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "program.h"

namespace ckpt_test {

class CheckedFixture : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(mount_.mounted());
    program_ = std::make_unique<CheckProgram>(program(), scratch_.path());
    ASSERT_TRUE(program_->wait_ready());
    pid_ = std::to_string(program_->pid());
  }

  virtual const char* program() const = 0;
  /// A figure of stats, -1 where it is missing.
  long figure(const std::string& name) const {
    const std::string stats = "\n" + read_file(mount_.path("stats"));
    const size_t at = stats.find("\n" + name + " ");
    return at == std::string::npos ? -1 : std::stol(stats.substr(at + name.size() + 2));
  }
  void expect_program_ok() {
    EXPECT_TRUE(program_->running());
    program_->go();
    EXPECT_EQ(program_->wait_result(), "ok");
  }

  Mount mount_;
  TemporaryDirectory scratch_;
  std::unique_ptr<CheckProgram> program_;
  std::string pid_;
};

}  // namespace ckpt_test
