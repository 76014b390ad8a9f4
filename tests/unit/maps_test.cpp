#include <gtest/gtest.h>

#include "engine/checkpoint_checks.h"
#include "memory_helpers.h"

namespace ckpt {
namespace {

constexpr const char* kMaps =
    "00400000-00452000 r-xp 00001000 08:02 173521      /usr/bin/a b (deleted)\n"
    "00e03000-00e24000 rw-p 00000000 00:00 0           [heap]\n"
    "35b1a21000-35b1a22000 rw-s 00000000 00:05 99 /memfd:x (deleted)\n"
    "7f2c00000000-7f2c00021000 ---p 00000000 00:00 0 \n"
    "7fff3c1a5000-7fff3c1a9000 r--p 00000000 00:00 0                          [vvar]\n"
    "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n";

TEST(Maps, ParsesEveryField) {
  const auto vmas = parse_maps(kMaps, "maps");
  ASSERT_EQ(vmas.size(), 6u);
  EXPECT_EQ(vmas[0].start, 0x400000u);
  EXPECT_EQ(vmas[0].end, 0x452000u);
  EXPECT_EQ(vmas[0].prot, static_cast<uint32_t>(PROT_READ | PROT_EXEC));
  EXPECT_EQ(vmas[0].offset, 0x1000u);
  EXPECT_EQ(vmas[0].dev_major, 8u);
  EXPECT_EQ(vmas[0].dev_minor, 2u);
  EXPECT_EQ(vmas[0].inode, 173521u);
  EXPECT_EQ(vmas[0].path, "/usr/bin/a b (deleted)");
  EXPECT_TRUE(vmas[0].unnamed_file());
  EXPECT_TRUE(vmas[1].anonymous());
  EXPECT_EQ(vmas[1].path, "[heap]");
  EXPECT_TRUE(vmas[2].shared);
  EXPECT_FALSE(vmas[2].anonymous());
  EXPECT_EQ(vmas[3].prot, static_cast<uint32_t>(PROT_NONE));
  EXPECT_EQ(vmas[3].path, "");
  EXPECT_TRUE(vmas[4].special());
  EXPECT_TRUE(vmas[5].special());
}

TEST(Maps, ParsesOwnSmaps) {
  const auto vmas = parse_maps(read_file("/proc/self/smaps"), "smaps");
  const auto plain = parse_maps(read_file("/proc/self/maps"), "maps");
  ASSERT_GT(vmas.size(), 10u);
  EXPECT_GT(plain.size(), 10u);
  EXPECT_TRUE(vmas[0].has_flag("rd"));
  EXPECT_FALSE(vmas[0].has_flag("zz"));
  for (const Vma& vma : vmas) EXPECT_FALSE(vma.vm_flags.empty()) << vma.name();
}

void refuse(const std::vector<Vma>& vmas) {
  Refusals refusals;
  refuse_mappings(1, vmas, refusals);
  refusals.raise();
}

TEST(Maps, AFlagThatNobodyKnowsIsRefused) {
  auto vmas = parse_maps("00400000-00402000 rw-p 00000000 00:00 0 \nProtectionKey:  3\nVmFlags: rd wr mr mw me ac \n", "smaps");
  EXPECT_EQ(vmas[0].protection_key, 3u);
  EXPECT_NO_THROW(refuse(vmas));
  vmas[0].vm_flags += " zz";
  try {
    refuse(vmas);
    FAIL() << "a flag 'zz' is taken";
  } catch (const Error& e) {
    EXPECT_EQ(e.err(), EOPNOTSUPP);
    EXPECT_NE(e.sentence().find("'zz'"), std::string::npos) << e.sentence();
  }
}

// Linux 6.1 shows memory locked on fault as "lo ?? ...".
TEST(Maps, ANamelessFlagIsTakenOnlyWhereItIsTheLockOnFault) {
  auto vmas = parse_maps("00400000-00402000 rw-p 00000000 00:00 0 \n", "smaps");
  for (const char* flags : {"rd wr mr mw me lo ?? ac sd", "rd mr mw me lo sr de ?? sd", "rd wr sh mr mw me ms lo ?? sd"}) {
    vmas[0].vm_flags = flags;
    EXPECT_TRUE(vmas[0].locked_on_fault()) << flags;
    EXPECT_NO_THROW(refuse(vmas)) << flags;
  }
  // Not locked; of a bit below, or above; of which cannot be told; two of them; the lock on fault is another.
  for (const char* flags : {"rd wr mr mw me ?? ac sd", "rd wr mr mw me ?? lo ac sd", "rd wr mr mw me lo ac ?? sd",
                            "rd wr mr mw me lo ac sd ??", "rd wr mr mw me lo ??", "rd wr mr mw me lo ?? ?? ac sd",
                            "rd wr mr mw me lo lf ?? ac sd", "rd wr mr mw me lo ?? ac ?? sd", "?? lo"}) {
    vmas[0].vm_flags = flags;
    EXPECT_FALSE(vmas[0].nameless_lock_on_fault()) << flags;
    EXPECT_THROW(refuse(vmas), Error) << flags;
  }
  vmas[0].vm_flags = "rd wr mr mw me lo lf ac sd";
  EXPECT_TRUE(vmas[0].locked_on_fault());
  vmas[0].vm_flags = "rd wr mr mw me lo ac sd";
  EXPECT_FALSE(vmas[0].locked_on_fault());
}

TEST(Maps, RefusesWhatNoKernelWrites) {
  const char* bad[] = {
      "hello\n",
      "Rss: 4 kB\n",
      "00400000-00400000 r-xp 00000000 00:00 0 \n",
      "00401000-00400000 r-xp 00000000 00:00 0 \n",
      "00400001-00402000 r-xp 00000000 00:00 0 \n",
      "00400000-00402000 r-xq 00000000 00:00 0 \n",
      "00400000-00402000 rr-p 00000000 00:00 0 \n",
      "00400000-00402000 r-xp 00000010 00:00 0 \n",
      "00400000-00402000 r-xp 00000000 00:00 x\n",
      "00400000-00402000 r-xp 00000000 00:00 0x\n",
      "00400000-00402000 r-xp 00000000 100000000:00 0 \n",
      "-1-00402000 r-xp 00000000 00:00 0 \n",
      "ffffffffffff0000-fffffffffffff000 r-xp 00000000 00:00 0 \n",
      "10000000000000000-20000000000000000 r-xp 00000000 00:00 0 \n",
      "00400000-00402000 r-xp 00000000 00:00 0 \n00401000-00403000 r-xp 00000000 00:00 0 \n",
      "00400000-00402000 r-xp 00000000 00:00 0 \n00300000-00301000 r-xp 00000000 00:00 0 \n",
  };
  for (const char* text : bad) {
    try {
      parse_maps(text, "image/maps");
      ADD_FAILURE() << text;
    } catch (const Error& e) {
      EXPECT_EQ(e.err(), EINVAL);
      EXPECT_EQ(e.sentence().rfind("image/maps: ", 0), 0u) << e.sentence();
    }
  }
}

TEST(Maps, OfALiveProcessTheLaterLineCounts) {
  const auto vmas = parse_live_maps(
      "00400000-00402000 rw-p 00000000 00:00 0 \nVmFlags: rd wr\n"
      "00402000-00405000 rw-p 00000000 00:00 0 \nVmFlags: rd wr hg\n"
      "00401000-00408000 r--p 00000000 00:00 0 \nVmFlags: rd\n"
      "00409000-0040a000 rw-p 00000000 00:00 0 \nVmFlags: rd wr mr\n",
      "/proc/1/smaps");
  ASSERT_EQ(vmas.size(), 3u);
  EXPECT_EQ(vmas[0].start, 0x400000u);
  EXPECT_EQ(vmas[0].end, 0x401000u);
  EXPECT_EQ(vmas[1].start, 0x401000u);
  EXPECT_EQ(vmas[1].end, 0x408000u);
  EXPECT_EQ(vmas[1].vm_flags, "rd");
  EXPECT_EQ(vmas[2].vm_flags, "rd wr mr");
  EXPECT_THROW(parse_live_maps("00400000-00400000 rw-p 00000000 00:00 0 \n", "/proc/1/smaps"), Error);
}

TEST(RangeName, IsSpelledOneWayOnly) {
  EXPECT_EQ(range_name({0x1000, 0x3000}), "00001000-00003000");
  EXPECT_EQ(range_name({0x7f0000000000, 0x7f0000001000}), "7f0000000000-7f0000001000");
  EXPECT_EQ(parse_range_name("00001000-00003000", "x"), (Range{0x1000, 0x3000}));
  for (const char* bad : {"", "-", "1000-3000", "00001000-00001000", "00003000-00001000", "00001001-00003000",
                          "0x001000-00003000", "00001000-00003000 ", "00001000-00003000x", "0000A000-0000B000",
                          "ffffffffff600000-ffffffffff601000", "00001000-10000000000000000"}) {
    EXPECT_THROW(parse_range_name(bad, "x"), Error) << bad;
  }
}

}  // namespace
}  // namespace ckpt
