#include "tools/ckpt/compare.h"

#include <gtest/gtest.h>

#include "tests/unit/memory_image.h"
#include "tools/ckpt/text.h"

namespace ckpt::tool {
namespace {

void fill(MemoryImage& image) {
  image.put("manifest", "{}");
  image.put("maps", "10000-20000 rw-p 00000000 00:00 0 [heap]\n");
  image.put("segments/10000-14000", std::string(4 * 4096, 'a'));
  image.put("fds/3", "type file\npath /x\npos 10\n");
  image.put("registers/7", "rip 0x1\nrax 0x2\n");
  image.put("registers/7.xsave", std::string(512, 'x'));
  image.put_link("cwd", "/");
}

TEST(CompareImages, EqualImagesAreTheSame) {
  MemoryImage a, b;
  fill(a), fill(b);
  b.content("manifest") = "{ }";  // times differ always
  EXPECT_TRUE(compare_images(a, b).same());
}

TEST(CompareImages, CountsPagesByAddress) {
  MemoryImage a, b;
  fill(a), fill(b);
  b.remove("segments/10000-14000");
  b.put("segments/11000-13000", std::string(4096, 'a') + std::string(4096, 'b'));
  b.put("segments/13000-16000", std::string(3 * 4096, 'a'));
  const Comparison c = compare_images(a, b);
  ASSERT_EQ(c.segments.size(), 1u);
  EXPECT_EQ(c.segments[0].mapping, "[heap]");
  EXPECT_EQ(c.segments[0].changed, 1u);
  EXPECT_EQ(c.segments[0].only_a, 1u);
  EXPECT_EQ(c.segments[0].only_b, 2u);
}

TEST(CompareImages, NamesFieldsThatChanged) {
  MemoryImage a, b;
  fill(a), fill(b);
  b.replace("fds/3", "pos 10", "pos 20");
  b.replace("registers/7", "0x1", "0x9");
  b.put("fds/4", "type file\n");
  a.content("registers/7.xsave")[3] = 'y';
  const Comparison c = compare_images(a, b);
  ASSERT_EQ(c.descriptors.size(), 2u);
  ASSERT_EQ(c.descriptors[0].fields.size(), 1u);
  EXPECT_EQ(c.descriptors[0].fields[0].name, "pos");
  EXPECT_EQ(c.descriptors[0].fields[0].b, std::vector<std::string>{"20"});
  EXPECT_EQ(c.descriptors[1].side, Side::only_b);
  ASSERT_EQ(c.registers.size(), 2u);
  EXPECT_EQ(c.registers[0].fields.at(0).name, "rip");
  EXPECT_EQ(c.registers[1].path, "registers/7.xsave");
  EXPECT_TRUE(c.segments.empty());
}

TEST(CkptfsMounts, AreFoundByType) {
  const auto mounts = ckptfs_mounts(
      "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
      "40 22 0:50 / /a\\040b rw,nosuid shared:9 - fuse.ckptfs ckptfs rw,user_id=0\n"
      "41 22 0:51 / /ckpt rw - fuse.ckptfs ckptfs rw\n");
  EXPECT_EQ(mounts, (std::vector<std::string>{"/a b", "/ckpt"}));
}

TEST(Human, ThreeFigures) {
  EXPECT_EQ(human_bytes(999), "999 B");
  EXPECT_EQ(human_bytes(1536), "1.5 KiB");
  EXPECT_EQ(human_bytes(UINT64_MAX), "16 EiB");
  EXPECT_EQ(human_time(1'500'000), "1.5 ms");
}

}  // namespace
}  // namespace ckpt::tool
