#include "engine/image/manifest.h"

#include <gtest/gtest.h>

#include "engine/base/error.h"

namespace ckpt {
namespace {

Manifest sample() {
  Manifest m;
  m.header.machine = "x86_64";
  m.header.kernel = "6.18.0";
  m.header.hostname = "host";
  m.header.engine = "ptrace";
  m.header.time_ns = 1'795'463'820'123'456'789;
  m.header.stop_ns = 250'000;
  m.header.xfeatures = 0xffff'ffff'ffff'fe07;
  m.header.pid = 1234;
  m.header.pids = {1234, 77};
  m.header.command = "a \"b\\\n\xff";
  m.header.uid = 1000;
  m.header.gid = 4'294'967'294;
  m.files["fds/3"] = {EntryType::file, 10, digest_bytes({})};
  m.files["exe"] = {EntryType::symlink, 13, zero_page_digest()};
  m.files["segments/1000-ffffffffffff"] = {EntryType::file, INT64_MAX, Digest{}};
  m.files["odd/\x80\xc3 \t\"\\"] = {EntryType::file, 0, Digest{}};
  m.files["gr\xc3\xbc\xc3\x9f" "e"] = {EntryType::file, 0, Digest{}};
  return m;
}

// Parses the sample with one text replaced, and returns the errno it is refused with (0 for none).
int refusal(const std::string& from, const std::string& to) {
  std::string json = sample().to_json();
  const size_t at = json.find(from);
  EXPECT_NE(at, json.npos) << from;
  json.replace(at, from.size(), to);
  try {
    Manifest::parse(json, "images/x/manifest");
    return 0;
  } catch (const Error& e) {
    EXPECT_TRUE(e.sentence().starts_with("images/x/manifest: ")) << e.sentence();
    return e.err();
  }
}

TEST(Manifest, TellsOfAnImageWithoutMemory) {
  Manifest m = sample();
  m.header.memory = false;
  EXPECT_FALSE(Manifest::parse(m.to_json(), "m").header.memory);
  EXPECT_EQ(refusal("\"uid\": 1000", "\"uid\": 1000, \"memory\": 0"), EINVAL);
  EXPECT_EQ(refusal("\"uid\": 1000", "\"uid\": true"), EINVAL);
}

TEST(Manifest, ReadsBackWhatItWrote) {
  const Manifest m = sample();
  const Manifest back = Manifest::parse(m.to_json(), "m");
  EXPECT_EQ(back.to_json(), m.to_json());
  EXPECT_EQ(back.header.time_ns, m.header.time_ns);
  EXPECT_EQ(back.header.xfeatures, m.header.xfeatures);
  EXPECT_EQ(back.header.command, m.header.command);
  EXPECT_EQ(back.header.pids, m.header.pids);
  EXPECT_EQ(back.header.gid, m.header.gid);
  EXPECT_TRUE(back.header.memory);
  ASSERT_EQ(back.files.size(), m.files.size());
  for (const auto& [path, file] : m.files) {
    ASSERT_TRUE(back.files.contains(path)) << path;
    EXPECT_EQ(back.files.at(path).size, file.size);
    EXPECT_EQ(back.files.at(path).digest, file.digest);
    EXPECT_EQ(back.files.at(path).type, file.type);
  }
}

TEST(Manifest, RefusesAnotherFormatAndOtherDigests) {
  EXPECT_EQ(refusal("\"format\": 1", "\"format\": 2"), EPROTONOSUPPORT);
  EXPECT_EQ(refusal("\"format\": 1", "\"format\": 0"), EINVAL);
  EXPECT_EQ(refusal("blake3-4k-1m", "crc32"), EPROTONOSUPPORT);
}

TEST(Manifest, RefusesPathsThatLeadOutOrClash) {
  for (const char* path : {"../x", "/etc/passwd", "a//b", "a/./b", "a/../b", "", ".", "a/", "a\\\\000b", "manifest",
                           "fds", "fds/3/x", "exe/y", "manifest/z", "a\\\\9"}) {
    EXPECT_EQ(refusal("fds/3", path), std::string(path) == "fds" ? 0 : std::string(path) == "fds/3/x" ? 0
                                      : EINVAL) << path;
  }
  EXPECT_EQ(refusal("\"exe\"", "\"fds/3\""), EINVAL);  // twice
  EXPECT_EQ(refusal("\"exe\"", "\"segments\""), EINVAL);  // a file and a directory
}

TEST(Manifest, RefusesNumbersOutOfRange) {
  EXPECT_EQ(refusal("9223372036854775807", "9223372036854775808"), EINVAL);
  EXPECT_EQ(refusal("9223372036854775807", "99999999999999999999999999"), EINVAL);
  EXPECT_EQ(refusal("9223372036854775807", "1e400"), EINVAL);
  EXPECT_EQ(refusal("\"size\": 10", "\"size\": -1"), EINVAL);
  EXPECT_EQ(refusal("\"size\": 10", "\"size\": 1.5"), EINVAL);
  EXPECT_EQ(refusal("\"size\": 10", "\"size\": \"10\""), EINVAL);
  EXPECT_EQ(refusal("\"pid\": 1234", "\"pid\": 0"), EINVAL);
  EXPECT_EQ(refusal("\"pid\": 1234", "\"pid\": 99999999"), EINVAL);
  EXPECT_EQ(refusal("\"pid\": 1234", "\"pid\": 5"), EINVAL);
  EXPECT_EQ(refusal("[1234, 77]", "[1234, 1234]"), EINVAL);
  EXPECT_EQ(refusal("[1234, 77]", "[]"), EINVAL);
  EXPECT_EQ(refusal("[1234, 77]", "[1234, [77]]"), EINVAL);
  EXPECT_EQ(refusal("\"uid\": 1000", "\"uid\": 4294967295"), EINVAL);
  EXPECT_EQ(refusal("2026-11-23", "2026-13-23"), EINVAL);
  EXPECT_EQ(refusal("2026-11-23", "9999-11-23"), EINVAL);
}

TEST(Manifest, RefusesFieldsThatAreMissingOrTwice) {
  EXPECT_EQ(refusal("\"uid\": 1000", "\"gid\": 1000"), EINVAL);
  EXPECT_EQ(refusal("\"machine\"", "\"machin\""), EINVAL);
  EXPECT_EQ(refusal("\"type\": \"file\", ", ""), EINVAL);
  EXPECT_EQ(refusal("\"size\": 10, ", "\"size\": 10, \"size\": 10, "), EINVAL);
}

TEST(Manifest, SaysWhatIsWrongInOneShortLine) {
  for (const std::string& text : {"{\"format\": " + std::string(100000, '1') + "}", std::string("{\n\n\"format\"\n: 1x}")}) {
    try {
      Manifest::parse(text, "m");
      ADD_FAILURE() << "it was taken";
    } catch (const Error& e) {
      EXPECT_EQ(e.err(), EINVAL);
      EXPECT_LT(e.sentence().size(), 400u);
      EXPECT_EQ(e.sentence().find('\n'), std::string::npos);
    }
  }
}

TEST(Manifest, PassesOverFieldsItDoesNotKnow) {
  EXPECT_EQ(refusal("\"uid\": 1000", "\"uid\": 1000, \"new\": {\"a\": [1, -2, null, {\"uid\": 3.5}]}, \"n\": -1"), 0);
  EXPECT_EQ(refusal("\"size\": 10", "\"size\": 10, \"mode\": [{}]"), 0);
  EXPECT_EQ(refusal("\"uid\": 1000", "\"uid\": 1000, \"new\": " + std::string(100000, '[')), EINVAL);
}

TEST(Manifest, RefusesWhatIsNoManifest) {
  for (const char* text : {"", "{}", "[]", "null", "3", "\"x\"", "{", "{\"format\": 1}", "\xff\xfe", "{} {}",
                           "{\"files\": []}", "{\"files\": {\"a\": 3}}", "{\"format\": {}}"}) {
    try {
      Manifest::parse(text, "m");
      ADD_FAILURE() << text;
    } catch (const Error& e) {
      EXPECT_EQ(e.err(), EINVAL) << text;
    }
  }
}

}  // namespace
}  // namespace ckpt
