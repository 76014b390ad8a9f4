#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "engine/kinds/memory_object.h"
#include "tests/unit/descriptor_fixture.h"

namespace ckpt {
namespace {

std::string content_of(int fd) {
  std::string text(static_cast<size_t>(lseek(fd, 0, SEEK_END)), '\0');
  pread_all(fd, std::as_writable_bytes(std::span(text)), 0, "file");
  return text;
}

TEST_F(DescriptorTest, AMemfdKeepsContentHolesAndSeals) {
  const int fd = memfd_create("some name", MFD_ALLOW_SEALING | MFD_CLOEXEC);
  std::string expected(5'000'123, '\0');
  for (size_t i = 8192; i < 3'500'000; ++i) expected[i] = static_cast<char>(i * 7 / 4096 + 1);
  expected.back() = 'x';
  ASSERT_EQ(ftruncate(fd, static_cast<off_t>(expected.size())), 0);
  pwrite_all(fd, std::as_bytes(std::span(expected)).subspan(8192, 3'500'000 - 8192), 8192, "memfd");
  pwrite_all(fd, std::as_bytes(std::span(expected)).last(1), expected.size() - 1, "memfd");
  ASSERT_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE), 0);
  const int reader = open(fmt::format("/proc/self/fd/{}", fd).c_str(), O_RDONLY);
  ASSERT_EQ(lseek(reader, 77, SEEK_SET), 77);
  struct stat before = {}, after = {};
  fstat(fd, &before);
  round_trip({fd, reader});
  fstat(fd, &after);
  EXPECT_EQ(content_of(fd), expected);
  EXPECT_EQ(lseek(reader, 0, SEEK_CUR), 77);
  EXPECT_EQ(fcntl(reader, F_GETFL) & O_ACCMODE, O_RDONLY);
  EXPECT_EQ(fcntl(fd, F_GET_SEALS), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
  EXPECT_EQ(after.st_mode, before.st_mode);
  EXPECT_EQ(after.st_blocks, before.st_blocks) << "holes stay holes";
  EXPECT_EQ(read_link(AT_FDCWD, fmt::format("/proc/self/fd/{}", fd)), "/memfd:some name (deleted)");
  struct stat other = {};
  fstat(reader, &other);
  EXPECT_EQ(other.st_ino, after.st_ino) << "one file";
  close(fd);
  close(reader);
}

TEST_F(DescriptorTest, AnUnsealedMemfdIsHeldInMemoryOrCopiedInTheStop) {
  const int fd = memfd_create("x", 0);
  write_all(fd, std::string(2'000'000, 'a'), "memfd");
  uint64_t held = 0;
  CaptureContext ctx = capture_context();
  ctx.later_bytes = &held;
  capture_memory_object(ctx, fd, "/memfd:x (deleted)");
  EXPECT_EQ(held, 2'002'944u - 2'944u);
  // What the process writes afterwards is not of that instant.
  pwrite(fd, "bbbb", 4, 0);
  for (const auto& work : later_) work();
  restored_objects_.clear();
  struct stat st = {};
  fstat(fd, &st);
  const int back = restore_memory_object(restore_context(),
                                         memory_object_name(major(st.st_dev), minor(st.st_dev), st.st_ino));
  EXPECT_EQ(content_of(back), std::string(2'000'000, 'a'));
  close(fd);
}

TEST_F(DescriptorTest, WhatIsBeyondTheBudgetIsCopiedInTheStop) {
  const int fd = memfd_create("x", 0);
  const std::string small(8192, 'a'), other(8192, 'c');
  ASSERT_EQ(ftruncate(fd, 1 << 20), 0);
  pwrite(fd, small.data(), small.size(), 0);
  pwrite(fd, other.data(), other.size(), 65536);
  uint64_t held = (64 << 20) - 12288;
  CaptureContext ctx = capture_context();
  ctx.later_bytes = &held;
  capture_memory_object(ctx, fd, "/memfd:x (deleted)");
  EXPECT_EQ(held, (64u << 20) - 4096u) << "there was room for the first run alone";
  pwrite(fd, "bbbb", 4, 0);
  pwrite(fd, "bbbb", 4, 65536);
  for (const auto& work : later_) work();
  restored_objects_.clear();
  struct stat st = {};
  fstat(fd, &st);
  const int back = restore_memory_object(restore_context(),
                                         memory_object_name(major(st.st_dev), minor(st.st_dev), st.st_ino));
  EXPECT_EQ(content_of(back).substr(0, 8192), small);
  EXPECT_EQ(content_of(back).substr(65536, 8192), other);
  close(fd);
}

TEST_F(DescriptorTest, FutureWriteSealsComeLast) {
  const int fd = memfd_create("x", MFD_ALLOW_SEALING);
  ASSERT_EQ(ftruncate(fd, 4096), 0);
  ASSERT_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SEAL), 0);
  round_trip({fd});
  EXPECT_EQ(fcntl(fd, F_GET_SEALS), F_SEAL_FUTURE_WRITE | F_SEAL_SEAL);
  close(fd);
}

TEST_F(DescriptorTest, ADeletedFileKeepsItsContent) {
  const int fd = open(path("gone").c_str(), O_RDWR | O_CREAT | O_APPEND, 0640);
  write_all(fd, "what was in it", "gone");
  const int writer = open(fmt::format("/proc/self/fd/{}", fd).c_str(), O_WRONLY);
  ASSERT_EQ(fchmod(fd, 0200), 0);  // nobody could open it for reading now
  unlink(path("gone").c_str());
  struct stat before = {}, after = {};
  fstat(fd, &before);
  const int flags = fcntl(fd, F_GETFL);
  ASSERT_EQ(lseek(fd, 5, SEEK_SET), 5);
  capture({fd, writer});
  EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 5) << "the capture must not move the position";
  close(fd);
  close(writer);
  restore();
  fstat(fd, &after);
  EXPECT_EQ(after.st_nlink, 0u);
  EXPECT_EQ(after.st_dev, before.st_dev);
  EXPECT_EQ(after.st_mode, before.st_mode);
  EXPECT_EQ(fcntl(fd, F_GETFL), flags);
  EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 5);
  EXPECT_EQ(content_of(fd), "what was in it");
  EXPECT_EQ(fcntl(writer, F_GETFL) & O_ACCMODE, O_WRONLY);
  close(fd);
  close(writer);
}

TEST_F(DescriptorTest, ADeletedFileWhoseDirectoryIsGoneLivesInMemory) {
  ASSERT_EQ(mkdir(path("d").c_str(), 0700), 0);
  const int fd = open(path("d/gone").c_str(), O_RDWR | O_CREAT, 0600);
  write_all(fd, "content", "gone");
  unlink(path("d/gone").c_str());
  rmdir(path("d").c_str());
  round_trip({fd});
  EXPECT_EQ(content_of(fd), "content");
  close(fd);
}

TEST_F(DescriptorTest, SharedAnonymousMemoryIsAnObject) {
  if (geteuid() != 0) GTEST_SKIP() << "map_files needs root";
  char* at = static_cast<char*>(mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  std::strcpy(at + 5000, "shared");
  const auto start = reinterpret_cast<uint64_t>(at);
  const std::string link = fmt::format("/proc/self/map_files/{:x}-{:x}", start, start + 8192);
  const UniqueFd fd = open_at(AT_FDCWD, link, O_RDWR);
  const std::string name = capture_memory_object(capture_context(), fd.get(), "/dev/zero (deleted)");
  for (const auto& work : later_) work();
  munmap(at, 8192);
  const int back = restore_memory_object(restore_context(), name);
  EXPECT_EQ(read_link(AT_FDCWD, fmt::format("/proc/self/fd/{}", back)), "/dev/zero (deleted)");
  EXPECT_EQ(content_of(back).substr(5000, 6), "shared");
}

TEST_F(DescriptorTest, HugePagesAreRefusedByName) {
  const UniqueFd fd(memfd_create("big", MFD_HUGETLB));
  if (!fd) GTEST_SKIP() << "no huge pages here";
  EXPECT_NE(refusal({fd.get()}).find("memory in huge pages (/memfd:big"), std::string::npos) << refusal({fd.get()});
}

TEST_F(DescriptorTest, ForgedObjectsAreRefused) {
  const std::string head = "kind memfd\nname x\nsize 8192\nmode 0100777\nuid 0\ngid 0\n";
  image_.put("fds/3", "type memfd\npos 0\nflags 0x2\nobject memory-1-2-3\n");
  EXPECT_EQ(restore_error().err(), ENOENT);
  image_.put("objects/memory-1-2-3", head);
  image_.put("objects/memory-1-2-3.data/0-2000", std::string(8192, 'x'));
  restored_objects_.clear();
  restore_descriptors(restore_context(), {});
  image_.put("objects/memory-1-2-3.data/1000-2000", std::string(4096, 'x'));
  EXPECT_EQ(restore_error().err(), EINVAL) << "overlap";
  image_.remove("objects/memory-1-2-3.data/1000-2000");
  image_.put("objects/memory-1-2-3.data/2000-3000", std::string(4096, 'x'));
  EXPECT_EQ(restore_error().err(), EINVAL) << "beyond the end";
  image_.remove("objects/memory-1-2-3.data/2000-3000");
  image_.replace("objects/memory-1-2-3", "size 8192", "size 9223372036854775808");
  EXPECT_EQ(restore_error().err(), EINVAL);
  image_.replace("objects/memory-1-2-3", "size 9223372036854775808", "size 8192");
  image_.replace("objects/memory-1-2-3", "name x", "name a\\000b");
  EXPECT_EQ(restore_error().err(), EINVAL);
}

}  // namespace
}  // namespace ckpt
