// The language of ctl.
#include "ckptfs/command.h"

#include <gtest/gtest.h>

#include <algorithm>
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

TEST(Command, Series) {
  using namespace std::chrono_literals;
  EXPECT_FALSE(std::get<CheckpointCommand>(parse_command("7")).series);
  const auto command = std::get<CheckpointCommand>(parse_command("7 every=500ms keep=60,24h until=10m until=99 name=a"));
  ASSERT_TRUE(command.series);
  EXPECT_EQ(command.series->every, 500ms);
  EXPECT_EQ(command.series->keep.last, 60u);
  EXPECT_EQ(command.series->keep.hours, 24u);
  EXPECT_EQ(command.series->until_time, 10min);
  EXPECT_EQ(command.series->until_count, 99u);
  EXPECT_EQ(std::get<EndSeriesCommand>(parse_command("7 every=never")).pid, 7);
  EXPECT_TRUE(std::get<CheckpointCommand>(parse_command("7 every=1s full")).full);
  EXPECT_TRUE(std::get<CheckpointCommand>(parse_command("7 track")).track);
  for (const char* line :
       {"7 every=", "7 every=1", "7 every=9ms", "7 every=-1s", "7 every=1s every=1s", "7 every=1001d", "7 every=1y",
        "7 every=99999999999999999999s", "7 keep=3", "7 until=3", "7 every=1s keep=", "7 every=1s keep=0",
        "7 every=1s keep=3,", "7 every=1s keep=,3", "7 every=1s keep=3,4", "7 every=1s keep=3s", "7 every=1s keep=3 keep=3",
        "7 every=1s until=", "7 every=1s until=0", "7 every=1s until=0x10", "7 every=1s until=0s", "7 every=1s until=3 until=4",
        "7 every=1s exit", "7 every=1s stop", "7 every=1s answer=0x1000", "7 every=never name=a",
        "7 full", "7 every=1s full track", "7 full=1", "7 track=1"}) {
    EXPECT_EQ(refusal(line).err(), EINVAL) << line;
  }
}

TEST(Command, RetentionKeepsTheNewestOfEachPeriod) {
  constexpr uint64_t kSecond = 1'000'000'000, kDay = 86'400 * kSecond;
  // One every 20 s for an hour, from midnight on.
  std::vector<uint64_t> times;
  for (uint64_t i = 0; i < 180; ++i) times.push_back(kDay * 20'000 + i * 20 * kSecond);
  const auto kept = [&](const char* rule) {
    std::vector<size_t> left;
    const std::vector<size_t> goes = parse_retention(rule).value().superfluous(times);
    for (size_t i = 0; i < times.size(); ++i) {
      if (std::ranges::find(goes, i) == goes.end()) left.push_back(i);
    }
    return left;
  };
  EXPECT_EQ(kept("3"), (std::vector<size_t>{177, 178, 179}));
  EXPECT_EQ(kept("1000").size(), 180u);
  EXPECT_EQ(kept("3m"), (std::vector<size_t>{173, 176, 179}));
  EXPECT_EQ(kept("2,2m"), (std::vector<size_t>{176, 178, 179}));
  EXPECT_EQ(kept("24h"), (std::vector<size_t>{179}));
  times.push_back(times.back() + kDay);
  EXPECT_EQ(kept("9d"), (std::vector<size_t>{179, 180}));
  EXPECT_TRUE(Retention().superfluous(times).empty());
  EXPECT_TRUE(Retention{.last = 1}.superfluous({}).empty());
}

// Thinned out step by step, an hour leaves what the rule would leave of all.
TEST(Command, RetentionAtEveryStepLeavesWhatItWouldAtTheEnd) {
  const Retention keep = parse_retention("5,10m,3h").value();
  std::vector<uint64_t> all, left;
  for (uint64_t i = 0; i < 20'000; ++i) {
    all.push_back(1'700'000'000'000'000'000 + i * 1'300'000'000);
    left.push_back(all.back());
    const std::vector<size_t> goes = keep.superfluous(left);
    for (size_t k = goes.size(); k-- > 0;) left.erase(left.begin() + static_cast<ptrdiff_t>(goes[k]));
  }
  const std::vector<size_t> goes = keep.superfluous(all);
  for (size_t k = goes.size(); k-- > 0;) all.erase(all.begin() + static_cast<ptrdiff_t>(goes[k]));
  EXPECT_EQ(left, all);
}

TEST(Command, RetentionGoesByTheOrderWhereTheClockWasSetBack) {
  constexpr uint64_t kSecond = 1'000'000'000, kMinute = 60 * kSecond;
  uint64_t now = 1'700'000'040 * kSecond;   // a full minute
  const auto thinned = [&](const char* rule) {
    std::vector<uint64_t> left;
    for (int i = 0; i < 60; ++i) {
      now = i == 30 ? now - 10 * kMinute : now + 20 * kSecond;
      left.push_back(now);
      const std::vector<size_t> goes = parse_retention(rule).value().superfluous(left);
      EXPECT_FALSE(std::ranges::binary_search(goes, left.size() - 1)) << "the one just taken goes";
      for (size_t k = goes.size(); k-- > 0;) left.erase(left.begin() + static_cast<ptrdiff_t>(goes[k]));
    }
    for (uint64_t& time : left) time = (now - time) / kSecond;
    return left;
  };
  EXPECT_EQ(thinned("3"), (std::vector<uint64_t>{40, 20, 0}));
  EXPECT_EQ(thinned("1,3m").size(), 3u);
}

TEST(Command, Verbs) {
  EXPECT_EQ(std::get<RestoreCommand>(parse_command("restore 12@3")).name, "12@3");
  EXPECT_FALSE(std::get<RestoreCommand>(parse_command("restore 12")).stopped);
  EXPECT_TRUE(std::get<RestoreCommand>(parse_command("restore 12 stopped")).stopped);
  const auto copy = std::get<RestoreCommand>(parse_command("restore 12 pidns"));
  EXPECT_TRUE(copy.pidns && !copy.stopped);
  EXPECT_EQ(std::get<DeleteCommand>(parse_command("delete label")).name, "label");
}

TEST(Command, RestoreReplacesOrMakesACopy) {
  EXPECT_TRUE(std::get<RestoreCommand>(parse_command("restore 12 replace")).replace);
  EXPECT_FALSE(std::get<RestoreCommand>(parse_command("restore 12 pidns")).replace);
  EXPECT_TRUE(std::get<RestoreCommand>(parse_command("restore 12 replace lazy")).lazy);
  EXPECT_FALSE(std::get<RestoreCommand>(parse_command("restore 12 replace")).lazy);
  for (const char* line : {"restore 12 replace pidns", "restore 12 pidns replace", "restore 12 replaced", "restore 12 lazy pidns"}) {
    EXPECT_EQ(refusal(line).err(), EINVAL) << line;
  }
}

TEST(Command, CheckIsAboutAProcessOrTheStore) {
  EXPECT_TRUE(std::get<CheckCommand>(parse_command("check full")).full);
  const auto checkpoint = std::get<CheckpointCommand>(parse_command("check 1234 no_sockets exit"));
  EXPECT_EQ(checkpoint.pid, 1234);
  EXPECT_TRUE(checkpoint.dry_run && checkpoint.no_sockets);
  EXPECT_FALSE(std::get<CheckpointCommand>(parse_command("1234")).dry_run);
  for (const char* line : {"check", "check all", "check 0", "check 12 x", "check 12 answer=8", "check 12 every=1s", "check 12 every=never", "check full 12"}) {
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
