// When an image that is being copied in is complete.
#include "ckptfs/completion.h"

#include <gtest/gtest.h>

namespace ckpt {
namespace {

Manifest manifest() {
  Manifest result;
  result.files["fds/0"] = {EntryType::file, 10, {}};
  result.files["segments/a"] = {EntryType::file, 4096, {}};
  result.files["exe"] = {EntryType::symlink, 5, {}};
  return result;
}

TEST(Completion, AnyOrder) {
  Completion manifest_last;
  manifest_last.settle("fds/0", EntryType::file, 10);
  manifest_last.settle("segments/a", EntryType::file, 4096);
  manifest_last.settle("exe", EntryType::symlink, 5);
  EXPECT_FALSE(manifest_last.complete());
  manifest_last.set_manifest(manifest());
  EXPECT_TRUE(manifest_last.complete());

  Completion manifest_first;
  manifest_first.set_manifest(manifest());
  manifest_first.settle("exe", EntryType::symlink, 5);
  manifest_first.settle("segments/a", EntryType::file, 4096);
  EXPECT_FALSE(manifest_first.complete());
  EXPECT_NE(manifest_first.waiting_for().find("fds/0"), std::string::npos);
  manifest_first.settle("fds/0", EntryType::file, 10);
  EXPECT_TRUE(manifest_first.complete());
}

TEST(Completion, TemporaryNamesAreRenamed) {
  Completion completion;
  completion.set_manifest(manifest());
  completion.settle("exe", EntryType::symlink, 5);
  completion.settle("segments/a", EntryType::file, 4096);
  completion.settle("fds/.0.Xy1", EntryType::file, 10);
  EXPECT_FALSE(completion.complete());
  completion.unsettle("fds/.0.Xy1");
  completion.settle("fds/0", EntryType::file, 10);
  EXPECT_TRUE(completion.complete());
}

TEST(Completion, AFileThatIsWrittenAgainIsAwaited) {
  Completion completion;
  completion.set_manifest(manifest());
  completion.settle("exe", EntryType::symlink, 5);
  completion.settle("segments/a", EntryType::file, 4096);
  completion.settle("fds/0", EntryType::file, 10);
  completion.unsettle("fds/0");
  EXPECT_FALSE(completion.complete());
}

TEST(Completion, AShortFileIsNamedWhenAllAreThere) {
  Completion completion;
  completion.set_manifest(manifest());
  completion.settle("segments/a", EntryType::file, 100);
  completion.settle("exe", EntryType::symlink, 5);
  EXPECT_FALSE(completion.wrong_file());
  completion.settle("fds/0", EntryType::file, 10);
  ASSERT_TRUE(completion.wrong_file());
  EXPECT_EQ(*completion.wrong_file(), "segments/a has 100 bytes, the manifest says 4096");
}

TEST(Completion, ALongFileIsNamedAtOnce) {
  Completion completion;
  completion.set_manifest(manifest());
  completion.settle("fds/0", EntryType::file, 11);
  ASSERT_TRUE(completion.wrong_file());
}

TEST(Completion, TarsPlaceHolderForALinkIsAwaited) {
  Completion completion;
  completion.set_manifest(manifest());
  completion.settle("exe", EntryType::file, 0);
  completion.settle("segments/a", EntryType::file, 4096);
  completion.settle("fds/0", EntryType::file, 10);
  EXPECT_FALSE(completion.wrong_file());
  completion.unsettle("exe");
  completion.settle("exe", EntryType::symlink, 5);
  EXPECT_TRUE(completion.complete());
}

}  // namespace
}  // namespace ckpt
