#include "engine/memory/fill.h"

#include <gtest/gtest.h>

#include "memory_helpers.h"
#include "ptrace_remote.h"

namespace ckpt {
namespace {

using test::Child;
using test::kPage;
using test::map_pages;
using test::MapImage;
using test::PtraceRemote;
using test::range_at;

std::string pattern(const void* base, uint64_t pages) {
  std::string content(pages * kPage, '\0');
  for (uint64_t i = 0; i < pages * kPage; i += 8) {
    const uint64_t word = (reinterpret_cast<uint64_t>(base) + i) * 0x9e3779b97f4a7c15;
    std::memcpy(content.data() + i, &word, 8);
  }
  return content;
}

std::string read_child(pid_t pid, const void* base, uint64_t pages) {
  std::string content(pages * kPage, '\1');
  RemoteMemory(pid).read(reinterpret_cast<uint64_t>(base), std::as_writable_bytes(std::span(content)));
  return content;
}

struct FillCase {
  const char* name;
  uint64_t pages;
  int prot;
  int advice;
};

class Fill : public testing::TestWithParam<FillCase> {};

TEST_P(Fill, BringsSegmentsIn) {
  const FillCase& c = GetParam();
  char* base = map_pages(c.pages, c.prot);
  if (c.advice >= 0) ::madvise(base, c.pages * kPage, c.advice);
  Child child([](auto&) {});
  MapImage image;
  const uint64_t hole = c.pages / 2;
  image.put("segments/" + range_name(range_at(base, hole)), pattern(base, hole));
  char* rest = base + (hole + 1) * kPage;
  image.put("segments/" + range_name(range_at(rest, c.pages - hole - 1)), pattern(rest, c.pages - hole - 1));
  {
    PtraceRemote remote(child.pid());
    remote.stop();
    const FilledMemory filled = fill_memory(image, "", child.vmas(), remote);
    EXPECT_EQ(filled.bytes, image.total_size());
    EXPECT_STREQ(filled.method, filled.bytes >= (4 << 20) ? "userfaultfd" : "write");
  }
  EXPECT_EQ(read_child(child.pid(), base, hole), pattern(base, hole));
  EXPECT_EQ(read_child(child.pid(), rest, c.pages - hole - 1), pattern(rest, c.pages - hole - 1));
  for (const Vma& vma : child.vmas()) EXPECT_FALSE(vma.has_flag("um")) << vma.name();
  ::munmap(base, c.pages * kPage);
}

INSTANTIATE_TEST_SUITE_P(
    Ways, Fill,
    testing::Values(FillCase{"small", 16, PROT_READ | PROT_WRITE, -1},
                    FillCase{"large", 20000, PROT_READ | PROT_WRITE, MADV_NOHUGEPAGE},
                    FillCase{"huge", 20000, PROT_READ | PROT_WRITE, MADV_HUGEPAGE},
                    FillCase{"read_only", 4000, PROT_READ, -1}, FillCase{"no_access_small", 16, PROT_NONE, -1},
                    FillCase{"no_access", 4000, PROT_NONE, -1}),
    [](const auto& tested) { return tested.param.name; });

TEST(FillMemory, ReplacesPagesOfPrivateFilesWithZeros) {
  char name[] = "/tmp/ckpt_fill_XXXXXX";
  const UniqueFd fd(::mkstemp(name));
  ::unlink(name);
  const std::string ones(4 * kPage, '1');
  write_all(fd.get(), ones, name);
  auto* base = static_cast<char*>(::mmap(nullptr, 4 * kPage, PROT_READ, MAP_PRIVATE, fd.get(), 0));
  Child child([](auto&) {});
  MapImage image;
  image.put("segments/" + range_name(range_at(base + kPage, 1)), std::string(kPage, '\0'));
  {
    PtraceRemote remote(child.pid());
    remote.stop();
    fill_memory(image, "", child.vmas(), remote);
  }
  EXPECT_EQ(read_child(child.pid(), base, 4), std::string(kPage, '1') + std::string(kPage, '\0') + ones.substr(2 * kPage));
  EXPECT_EQ(base[kPage], '1');
  ::munmap(base, 4 * kPage);
}

TEST(FillMemory, LeavesZerosUntouched) {
  constexpr uint64_t pages = 4096;
  char* base = map_pages(pages);
  Child child([](auto&) {});
  MapImage image;
  image.put("segments/" + range_name(range_at(base, pages)), std::string(pages * kPage, '\0'));
  PtraceRemote remote(child.pid());
  remote.stop();
  fill_memory(image, "", child.vmas(), remote);
  const std::string smaps = read_file(fmt::format("/proc/{}/smaps", child.pid()));
  const size_t at = smaps.find(fmt::format("{:x}-", reinterpret_cast<uint64_t>(base)));
  if (at != std::string::npos) {
    const size_t rss = smaps.find("Rss:", at);
    EXPECT_EQ(smaps.substr(rss, smaps.find('\n', rss) - rss), "Rss:                   0 kB");
  }
  ::munmap(base, pages * kPage);
}

TEST(ListSegments, RefusesHostileNames) {
  const std::vector<Vma> vmas = parse_maps(
      "00400000-00410000 rw-p 00000000 00:00 0 \n"
      "00410000-00420000 r--p 00000000 00:00 0 \n"
      "00500000-00510000 rw-s 00000000 00:05 99 /etc/passwd\n"
      "00600000-00602000 r-xp 00000000 00:00 0 [vdso]\n",
      "maps");
  const auto list = [&](std::vector<std::pair<std::string, uint64_t>> files) {
    MapImage image;
    for (const auto& [name, size] : files) image.put("segments/" + name, std::string(size, 'x'));
    return list_segments(image, "", vmas).size();
  };
  EXPECT_EQ(list({{"00400000-00401000", 4096}, {"0040f000-00411000", 8192}}), 2u);
  const std::vector<std::vector<std::pair<std::string, uint64_t>>> bad = {
      {{"00400000-00401000", 4095}},
      {{"00400000-00401000", 8192}},
      {{"003ff000-00401000", 8192}},
      {{"0041f000-00421000", 8192}},
      {{"00300000-00301000", 4096}},
      {{"00500000-00501000", 4096}},
      {{"00600000-00601000", 4096}},
      {{"00400000-00402000", 8192}, {"00401000-00403000", 8192}},
      {{"00400000-00401000/x", 4096}},
      {{"../00400000-00401000", 4096}},
      {{"4194304", 4096}},
  };
  for (const auto& files : bad) {
    EXPECT_THROW(list(files), Error) << files[0].first;
  }
}

}  // namespace
}  // namespace ckpt
