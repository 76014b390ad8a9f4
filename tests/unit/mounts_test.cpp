#include "engine/process/mounts.h"

#include <gtest/gtest.h>
#include <unistd.h>

namespace ckpt {
namespace {

constexpr const char* kMounts =
    "20 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
    "21 20 0:5 / /proc rw shared:1 - proc proc rw\n"
    "22 20 8:2 / /srv rw - ext4 /dev/sda2 rw\n"
    "23 22 0:30 / /srv/a\\040b rw - tmpfs tmpfs rw\n"
    "24 22 0:31 / /srv/deep/below rw - tmpfs tmpfs rw\n"
    "25 22 0:32 / /srv/deep rw - tmpfs tmpfs rw\n"     // hides 24
    "26 25 0:33 / /srv/deep rw - tmpfs tmpfs rw\n"     // and another on top
    "a line that is none\n";

TEST(MountTable, findsWhereAPathEnds) {
  const MountTable mounts(kMounts);
  EXPECT_EQ(mounts.at("/"), 20);
  EXPECT_EQ(mounts.at("/srvx"), 20);
  EXPECT_EQ(mounts.at("/proc/1"), 21);
  EXPECT_EQ(mounts.at("/srv"), 22);
  EXPECT_EQ(mounts.at("/srv/a b/c"), 23);
  EXPECT_EQ(mounts.at("/srv/deep/below"), 26);
}

TEST(MountTable, tellsWhatIsOutOfReach) {
  const MountTable mounts(kMounts);
  EXPECT_EQ(mounts.out_of_reach(22, "/srv/x"), nullptr);
  EXPECT_STREQ(mounts.out_of_reach(24, "/srv/deep/below"), "hidden by another mount");
  EXPECT_STREQ(mounts.out_of_reach(20, "/srv"), "hidden by another mount");
  EXPECT_NE(mounts.out_of_reach(99, "/"), nullptr);
  EXPECT_EQ(MountTable("").at("/"), 0);
}

TEST(MountTable, isReadOnceUntilItChanges) {
  const auto first = MountTable::now();
  EXPECT_NE(first->at("/"), 0);
  EXPECT_TRUE(first->has(first->at("/")));
}

}  // namespace
}  // namespace ckpt
