#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "engine/base/error.h"
#include "engine/base/fd.h"
#include "engine/image/manifest.h"

namespace ckpt {
namespace {

namespace fs = std::filesystem;

class ArchiveTest : public testing::Test {
 protected:
  ArchiveTest() {
    std::string name = fs::temp_directory_path() / "ckpt-verify-XXXXXX";
    dir_ = mkdtemp(name.data());
    write("fds/3", "type file\n");
    write("segments/1000-3000", std::string(8192, 'x'));
    write("big", std::string(3 << 20, 'y') + "end");
    fs::create_symlink("/usr/bin/true", dir_ / "exe");
    Manifest m;
    m.header.machine = "x86_64";
    m.header.pid = 7;
    m.header.pids = {7};
    write("manifest", m.to_json());
    seal_directory(dir_);
  }
  ~ArchiveTest() override { fs::remove_all(dir_); }

  void write(const std::string& path, const std::string& text) {
    fs::create_directories((dir_ / path).parent_path());
    std::ofstream(dir_ / path, std::ios::binary) << text;
  }
  // The sentence with which the archive is refused; empty where it is accepted.
  std::string refusal(bool contents = true) {
    try {
      verify_image(*open_directory_image(dir_), contents);
      return "";
    } catch (const Error& e) {
      return e.sentence();
    }
  }

  fs::path dir_;
};

TEST_F(ArchiveTest, WholeAndUnchangedIsAccepted) {
  EXPECT_EQ(refusal(), "");
  const auto image = open_directory_image(dir_);
  EXPECT_EQ(image->read("fds/3"), "type file\n");
  EXPECT_EQ(image->read_link("exe"), "/usr/bin/true");
  EXPECT_EQ(image->below("fds").size(), 1u);
  EXPECT_EQ(image->below("").size(), 5u);
  std::string tail(5, ' ');
  image->read_at("big", (3 << 20) - 2, std::as_writable_bytes(std::span(tail)));
  EXPECT_EQ(tail, "yyend");
  EXPECT_THROW(image->read_at("fds/3", 8, std::as_writable_bytes(std::span(tail))), Error);
  const std::string big = image->read("big");
  EXPECT_EQ(image->digest("big"), digest_file(std::as_bytes(std::span(big))));
}

TEST_F(ArchiveTest, EveryKindOfChangeIsNamed) {
  write("fds/3", "type FILE\n");
  EXPECT_NE(refusal().find("fds/3 was changed and not sealed"), std::string::npos) << refusal();
  EXPECT_EQ(refusal(false), "");
  write("fds/3", "type file");
  EXPECT_NE(refusal(false).find("fds/3 has 9 bytes"), std::string::npos) << refusal();
  fs::remove(dir_ / "fds/3");
  EXPECT_NE(refusal(false).find("fds/3 is missing"), std::string::npos) << refusal();
  write("fds/3", "type file\n");
  write("fds/4", "new");
  EXPECT_NE(refusal(false).find("fds/4 is not in the manifest"), std::string::npos) << refusal();
  fs::remove(dir_ / "fds/4");
  EXPECT_EQ(refusal(), "");
  fs::remove(dir_ / "exe");
  fs::create_symlink("/usr/bin/fals", dir_ / "exe");
  EXPECT_NE(refusal().find("exe was changed"), std::string::npos) << refusal();
  fs::remove(dir_ / "exe");
  write("exe", "/usr/bin/true");
  EXPECT_NE(refusal(false).find("exe is not a symbolic link"), std::string::npos) << refusal();
}

TEST_F(ArchiveTest, SealingAcceptsAnEdit) {
  const std::string before = read_file(dir_ / "manifest");
  chmod((dir_ / "manifest").c_str(), 0640);
  write("fds/3", "type pipe\n");
  write(".manifest.new", "left over");
  seal_directory(dir_);
  EXPECT_EQ(refusal(), "");
  EXPECT_NE(read_file(dir_ / "manifest"), before);
  EXPECT_EQ(fs::status(dir_ / "manifest").permissions(), fs::perms(0640));
  write("fds/3", "type file\n");
  seal_directory(dir_);
  EXPECT_EQ(read_file(dir_ / "manifest"), before);
}

TEST_F(ArchiveTest, SpecialFilesAndStrayLinksAreRefused) {
  ASSERT_EQ(mkfifo((dir_ / "fifo").c_str(), 0600), 0);
  EXPECT_NE(refusal().find("special file"), std::string::npos) << refusal();
  fs::remove(dir_ / "fifo");
  // A directory that becomes a link after the scan is not followed.
  const auto image = open_directory_image(dir_);
  fs::rename(dir_ / "fds", dir_ / "elsewhere");
  fs::create_directory_symlink(dir_ / "elsewhere", dir_ / "fds");
  EXPECT_THROW(image->read("fds/3"), Error);
}

TEST_F(ArchiveTest, WithoutAManifestThereIsNoImage) {
  fs::remove(dir_ / "manifest");
  EXPECT_NE(refusal(), "");
  EXPECT_THROW(seal_directory(dir_), Error);
  EXPECT_THROW(open_directory_image(dir_ / "absent"), Error);
}

}  // namespace
}  // namespace ckpt
