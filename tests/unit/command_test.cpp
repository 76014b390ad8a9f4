// The language of ctl.
#include "ckptfs/command.h"

#include <gtest/gtest.h>

#include <random>

#include "engine/base/error.h"

namespace ckpt {
namespace {

Error refusal(std::string_view line) {
  try {
    parse_command(line);
  } catch (const Error& error) {
    return error;
  }
  return Error(0, "");
}

TEST(Command, BarePidMeansCheckpointAndContinue) {
  const auto command = std::get<CheckpointCommand>(parse_command("1234"));
  EXPECT_EQ(command.pid, 1234);
  EXPECT_EQ(command.after, AfterCapture::go_on);
  EXPECT_EQ(command.name, "");
}

TEST(Command, OptionsOfACheckpoint) {
  const auto command = std::get<CheckpointCommand>(parse_command(" 7\texit  name=before-upgrade "));
  EXPECT_EQ(command.pid, 7);
  EXPECT_EQ(command.after, AfterCapture::exit);
  EXPECT_EQ(command.name, "before-upgrade");
  EXPECT_EQ(std::get<CheckpointCommand>(parse_command("7 stop")).after, AfterCapture::stop);
}

TEST(Command, FlagsOfTheApi) {
  const auto plain = std::get<CheckpointCommand>(parse_command("7"));
  EXPECT_FALSE(plain.cpu || plain.hold_linkcnt);
  EXPECT_EQ(plain.into, -1);
  const auto command = std::get<CheckpointCommand>(parse_command("7 cpu hold_linkcnt into=5 answer=0x1000"));
  EXPECT_TRUE(command.cpu);
  EXPECT_TRUE(command.hold_linkcnt);
  EXPECT_EQ(command.into, 5);
  for (const char* line : {"7 into=5", "7 into= answer=0x1000", "7 into=-1 answer=0x1000", "7 into=1 into=2 answer=0x1000",
                           "7 into=4294967296 answer=0x1000", "7 into=5 name=a answer=0x1000"}) {
    EXPECT_EQ(refusal(line).err(), EINVAL) << line;
  }
}

TEST(Command, Verbs) {
  EXPECT_EQ(std::get<RestoreCommand>(parse_command("restore 12@3")).name, "12@3");
  EXPECT_FALSE(std::get<RestoreCommand>(parse_command("restore 12")).stopped);
  EXPECT_TRUE(std::get<RestoreCommand>(parse_command("restore 12 stopped")).stopped);
  const auto copy = std::get<RestoreCommand>(parse_command("restore 12 pidns"));
  EXPECT_TRUE(copy.pidns && !copy.stopped);
  EXPECT_EQ(std::get<DeleteCommand>(parse_command("delete label")).name, "label");
}

TEST(Command, CheckIsAboutAProcessOrTheStore) {
  EXPECT_TRUE(std::get<CheckCommand>(parse_command("check full")).full);
  const auto checkpoint = std::get<CheckpointCommand>(parse_command("check 1234 no_sockets exit"));
  EXPECT_EQ(checkpoint.pid, 1234);
  EXPECT_TRUE(checkpoint.dry_run && checkpoint.no_sockets);
  EXPECT_FALSE(std::get<CheckpointCommand>(parse_command("1234")).dry_run);
  for (const char* line : {"check", "check all", "check 0", "check 12 x", "check 12 answer=8", "check full 12"}) {
    EXPECT_EQ(refusal(line).err(), EINVAL) << line;
  }
}

TEST(Command, RefusalsNameTheWord) {
  EXPECT_EQ(refusal("frobnicate 12").sentence(), "ctl: unknown word 'frobnicate'");
  EXPECT_EQ(refusal("12 frobnicate").sentence(), "12: unknown option 'frobnicate'");
  for (const char* line : {"frobnicate", "12 x", "0", "-1", "99999999999", "12x", "1 2", "restore", "restore ../x",
                           "restore a b", "delete", "delete a b", "delete .", "1 name=", "1 name=a/b",
                           "1 name=a name=b", "1 exit stop", "1 exit exit"}) {
    EXPECT_EQ(refusal(line).err(), EINVAL) << line;
    EXPECT_FALSE(refusal(line).sentence().empty()) << line;
  }
}

TEST(Command, MessagesStayShortAndPrintable) {
  EXPECT_LT(refusal("12 " + std::string(4000, 'x')).sentence().size(), 120u);
  EXPECT_EQ(refusal("\xff\xfe").sentence(), "ctl: unknown word '\\377\\376'");
}

TEST(Command, Lines) {
  const auto lines = split_commands("1\n\n  # a comment\n2 exit\n3");
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(lines[1], "2 exit");
  EXPECT_EQ(lines[2], "3");
  EXPECT_TRUE(split_commands("").empty());
  EXPECT_EQ(split_commands(std::string(kMaxCommandLine, 'x')).size(), 1u);
  EXPECT_THROW(split_commands(std::string(kMaxCommandLine + 1, 'x')), Error);
  EXPECT_THROW(split_commands(std::string_view("12\n1\0\n", 6)), Error);
}

TEST(Command, NoiseIsHarmless) {
  std::mt19937 random(1);
  for (int round = 0; round < 5; ++round) {
    std::string noise(100'000, '\0');
    for (char& c : noise) c = static_cast<char>(random());
    EXPECT_THROW(split_commands(noise), Error);
    for (char& c : noise) c = "0123456789 abcdefgh=\n"[static_cast<unsigned char>(c) % 21];
    for (const std::string_view line : split_commands(noise)) {
      try {
        parse_command(line);
      } catch (const Error& error) {
        EXPECT_LT(error.sentence().size(), 400u);
      }
    }
  }
}

}  // namespace
}  // namespace ckpt
