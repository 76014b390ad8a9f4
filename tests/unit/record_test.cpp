#include "engine/base/record.h"

#include <gtest/gtest.h>

#include "engine/base/error.h"

namespace ckpt {
namespace {

TEST(Record, KeepsEveryByteOfAValue) {
  Record r;
  const std::string odd = std::string("a b\n\\ \t\x01\x7f\xff/") + '\0' + "end";
  r.add("path", odd);
  r.add_hex("flags", 0x8000);
  r.add("pos", int64_t{-5});
  const Record back = Record::parse(r.text(), "fds/3");
  EXPECT_EQ(back.get("path"), odd);
  EXPECT_EQ(back.get_u64("flags"), 0x8000u);
  EXPECT_EQ(back.get_i64("pos"), -5);
}

TEST(Record, NamesTheFileAndTheFieldInErrors) {
  const Record r = Record::parse("# note\n\npos 12x\n", "fds/3");
  try {
    r.get_u64("pos");
    FAIL() << "a malformed number was accepted";
  } catch (const Error& e) {
    EXPECT_EQ(e.err(), EINVAL);
    EXPECT_NE(e.sentence().find("fds/3"), std::string::npos);
    EXPECT_NE(e.sentence().find("pos"), std::string::npos);
  }
  EXPECT_THROW(r.get("absent"), Error);
}

TEST(Record, RefusesMalformedLines) {
  EXPECT_THROW(Record::parse("word\n", "x"), Error);
  EXPECT_THROW(Record::parse(" value\n", "x"), Error);
  EXPECT_THROW(Record::parse("a \\09\n", "x"), Error);
  EXPECT_THROW(Record::parse("a \\777\n", "x"), Error);
}

TEST(Record, NumbersAreStrict) {
  EXPECT_FALSE(parse_u64("18446744073709551616"));
  EXPECT_FALSE(parse_u64("-1"));
  EXPECT_FALSE(parse_u64(""));
  EXPECT_FALSE(parse_u64("0x"));
  EXPECT_EQ(parse_u64("0xffffffffffffffff"), UINT64_MAX);
  EXPECT_EQ(parse_i64("-9223372036854775808"), INT64_MIN);
}

}  // namespace
}  // namespace ckpt
