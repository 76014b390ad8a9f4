// Images whose processes run before their memory is there: restore NAME lazy.
#include <gtest/gtest.h>
#include <signal.h>

#include <string>

#include "checked_fixture.h"

namespace ckpt_test {
namespace {

/// mem_snapshot writes all of its 32 MiB without a rest, and checks them.
class Lazy : public CheckedFixture {
 protected:
  const char* program() const override { return "mem_snapshot"; }
  void SetUp() override {
    ASSERT_NO_FATAL_FAILURE(CheckedFixture::SetUp());
    const Outcome outcome = mount_.command(pid_);
    ASSERT_EQ(outcome.error, 0) << outcome.sentence;
    program_->kill_and_reap();
  }
  void restore(const std::string& options) {
    const Outcome outcome = mount_.command("restore " + pid_ + " " + options);
    ASSERT_EQ(outcome.error, 0) << outcome.sentence;
    program_->resumed();
  }
};

TEST_F(Lazy, runs_and_finds_all_of_its_memory) {
  ASSERT_NO_FATAL_FAILURE(restore("lazy"));
  EXPECT_TRUE(wait_until([&] { return figure("lazy_fills") == 0; }));
  EXPECT_EQ(figure("lazy_bytes_left"), 0);
  EXPECT_GT(figure("lazy_bytes"), 30 << 20);
  expect_program_ok();
}

TEST_F(Lazy, is_checkpointed_half_filled) {
  ASSERT_NO_FATAL_FAILURE(restore("lazy"));
  const Outcome outcome = mount_.command(pid_ + " track");
  ASSERT_EQ(outcome.error, 0) << outcome.sentence;
  EXPECT_EQ(figure("lazy_fills"), 0);
  move_through_archive(mount_, *program_, scratch_.path());
  expect_program_ok();
}

TEST_F(Lazy, its_image_may_be_deleted_meanwhile) {
  ASSERT_NO_FATAL_FAILURE(restore("lazy"));
  EXPECT_EQ(mount_.command("delete " + pid_).error, 0);
  EXPECT_EQ(mount_.command("gc now").error, 0);
  expect_program_ok();
}

TEST_F(Lazy, the_end_of_the_mount_waits_for_it) {
  ASSERT_NO_FATAL_FAILURE(restore("lazy"));
  mount_.stop();
  expect_program_ok();
}

// It is whole, or it is gone: never does it read zeros.
TEST_F(Lazy, is_ended_where_we_die) {
  for (int round = 0; round < 4; ++round) {
    ASSERT_NO_FATAL_FAILURE(restore("lazy"));
    const bool half = figure("lazy_fills") > 0;
    ::kill(mount_.daemon(), SIGKILL);
    mount_.stop();
    if (half) {
      wait_until([&] { return !program_->running(); }, std::chrono::seconds(2));   // it may have become whole
    }
    if (program_->running()) return expect_program_ok();
    EXPECT_TRUE(half);
    ASSERT_TRUE(program_->wait_end());
    ASSERT_TRUE(mount_.start());
  }
}

}  // namespace
}  // namespace ckpt_test
