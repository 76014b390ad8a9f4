// Who reads which lines from ctl.
#include "ckptfs/command_log.h"

#include <gtest/gtest.h>

namespace ckpt {
namespace {

TEST(CommandLog, ASessionReadsItsOwnNewestLast) {
  CommandLog log;
  log.add({1000, 5, 1}, "one");
  log.add({1000, 6, 2}, "elsewhere");
  log.add({1001, 5, 3}, "another user");
  log.add({1000, 5, 4}, "two");
  EXPECT_EQ(log.read({1000, 5, 9}), "one\ntwo\n");
}

TEST(CommandLog, AnOpenFileThatWroteReadsItsOwn) {
  CommandLog log;
  log.add({0, 5, 1}, "one");
  log.add({0, 5, 2}, "two");
  EXPECT_EQ(log.read({0, 5, 2}), "two\n");
}

TEST(CommandLog, ANewSessionReadsItsUsersLines) {
  CommandLog log;
  log.add({1000, 5, 1}, "mine");
  log.add({1001, 6, 2}, "another user");
  EXPECT_EQ(log.read({1000, 77, 9}), "mine\n");
  EXPECT_EQ(log.read({1002, 77, 9}), "");
}

TEST(CommandLog, ACommandHasOneLine) {
  CommandLog log;
  log.add({1000, 5, 1}, "restore/a\n1234: checkpointed\033[2J \\012");
  EXPECT_EQ(log.read({1000, 5, 9}), "restore/a\\0121234: checkpointed\\033[2J \\012\n");
}

TEST(CommandLog, IsBoundedForEachUser) {
  CommandLog log;
  log.add({1000, 5, 1}, "first");
  for (int i = 0; i < 5000; ++i) log.add({1001, 6, 2}, "noise");
  EXPECT_EQ(log.read({1000, 5, 9}), "first\n");
  EXPECT_LT(log.read({1001, 6, 9}).size(), 1000u);
}

}  // namespace
}  // namespace ckpt
