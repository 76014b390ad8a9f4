#include "engine/image/write_directory.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "engine/base/fd.h"
#include "engine/image/manifest.h"
#include "memory_image.h"

namespace ckpt {
namespace {

namespace fs = std::filesystem;

/// Its last file before the manifest may be damaged.
class TestImage : public MemoryImage {
 public:
  void visit(std::string_view path, uint64_t offset, uint64_t length, const Visitor& v) const override {
    if (damaged && path == "segments/a") fail(EIO, "{}: damaged", path);
    MemoryImage::visit(path, offset, length, v);
  }
  bool damaged = false;
};

class WriteDirectory : public testing::Test {
 protected:
  WriteDirectory() {
    std::string name = fs::temp_directory_path() / "ckpt-write-XXXXXX";
    path_ = mkdtemp(name.data());
    image_.put("manifest", "{}\n");
    image_.put("fds/3", "type file\n");
    image_.put("objects/memory-1.data/0-2000", std::string(8192, 'x'));
    image_.put("objects/pipe-1", "");
    image_.put("segments/a", std::string(1 << 20, '\0') + "end");
    image_.put_link("exe", "/no/such file");
  }
  ~WriteDirectory() override { fs::remove_all(path_); }

  int errno_of_write() {
    const UniqueFd dir = open_at(AT_FDCWD, path_, O_PATH | O_DIRECTORY);
    try {
      write_directory(image_, dir.get(), path_);
      return 0;
    } catch (const Error& e) {
      return e.err();
    }
  }

  TestImage image_;
  fs::path path_;
};

TEST_F(WriteDirectory, IsTheArchiveThatCpWouldMake) {
  ASSERT_EQ(errno_of_write(), 0);
  const auto written = open_directory_image(path_);
  ASSERT_EQ(written->entries().size(), image_.entries().size());
  for (const ImageEntry& entry : image_.entries()) {
    if (entry.type == EntryType::symlink) {
      EXPECT_EQ(written->read_link(entry.path), image_.read_link(entry.path));
    } else {
      EXPECT_EQ(written->read(entry.path), image_.read(entry.path)) << entry.path;
    }
  }
  struct stat st = {};
  ASSERT_EQ(stat((path_ / "fds/3").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0600u);
  ASSERT_EQ(stat((path_ / "objects/memory-1.data").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0700u);
}

TEST_F(WriteDirectory, ADirectoryThatIsNotEmptyIsLeftAlone) {
  fs::create_directory(path_ / "mine");
  EXPECT_EQ(errno_of_write(), EEXIST);
  EXPECT_TRUE(fs::remove(path_ / "mine"));
  EXPECT_TRUE(fs::is_empty(path_));
}

TEST_F(WriteDirectory, NothingIsLeftOfAFailure) {
  image_.damaged = true;
  EXPECT_EQ(errno_of_write(), EIO);
  EXPECT_TRUE(fs::is_empty(path_));
}

}  // namespace
}  // namespace ckpt
