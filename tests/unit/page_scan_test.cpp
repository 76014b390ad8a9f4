#include "engine/memory/page_scan.h"

#include <gtest/gtest.h>

#include "memory_helpers.h"

namespace ckpt {
namespace {

using test::Child;
using test::kPage;
using test::map_pages;
using test::range_at;

void touch(char* base, std::initializer_list<int> pages) {
  for (const int page : pages) base[static_cast<uint64_t>(page) * kPage] = 'x';
}

TEST(PageScan, FindsTouchedAnonymousPages) {
  char* base = map_pages(4096);
  ::madvise(base, 4096 * kPage, MADV_NOHUGEPAGE);
  Child child([&](auto&) {
    touch(base, {0, 1, 10, 100, 4095});
    volatile char c = base[200 * kPage];   // only the zero page
    (void)c;
  });
  const PageScanner scanner(child.pid());
  const std::vector<Range> exact = {range_at(base, 2), range_at(base + 10 * kPage, 1),
                                    range_at(base + 100 * kPage, 1), range_at(base + 4095 * kPage, 1)};
  EXPECT_EQ(scanner.content(range_at(base, 4096)), exact);
  // Pages 2 to 9 are a small gap; the mapping itself may have been merged with a neighbour.
  Vma vma = child.vma_at(base);
  vma.start = range_at(base, 0).start;
  vma.end = vma.start + 4096 * kPage;
  const std::vector<Range> merged = {range_at(base, 11), range_at(base + 100 * kPage, 1),
                                     range_at(base + 4095 * kPage, 1)};
  EXPECT_EQ(scanner.touched(vma), merged);
  ::munmap(base, 4096 * kPage);
}

TEST(PageScan, FindsOnlyCopiedPagesOfFiles) {
  char name[] = "/tmp/ckpt_page_scan_XXXXXX";
  const UniqueFd fd(::mkstemp(name));
  ASSERT_EQ(::ftruncate(fd.get(), 8 * kPage), 0);
  const auto map = [&](int flags) {
    return static_cast<char*>(::mmap(nullptr, 8 * kPage, PROT_READ | PROT_WRITE, flags, fd.get(), 0));
  };
  char* priv = map(MAP_PRIVATE);
  char* shared = map(MAP_SHARED);
  ::unlink(name);
  Child child([&](auto&) {
    volatile char c = priv[1 * kPage];
    (void)c;
    touch(priv, {2, 5});
    touch(shared, {3});
  });
  const PageScanner scanner(child.pid());
  const std::vector<Range> copied = {range_at(priv + 2 * kPage, 1), range_at(priv + 5 * kPage, 1)};
  EXPECT_EQ(scanner.touched(child.vma_at(priv)), copied);
  EXPECT_TRUE(scanner.touched(child.vma_at(shared)).empty());
  EXPECT_TRUE(child.vma_at(shared).unnamed_file());
  ::munmap(priv, 8 * kPage);
  ::munmap(shared, 8 * kPage);
}

TEST(PageScan, SkipsKernelMappingsAndSeesProtNone) {
  char* base = map_pages(64);
  Child child([&](auto&) {
    touch(base, {3});
    ::mprotect(base, 64 * kPage, PROT_NONE);
  });
  const PageScanner scanner(child.pid());
  EXPECT_EQ(scanner.content(range_at(base, 64)), (std::vector<Range>{range_at(base + 3 * kPage, 1)}));
  for (const Vma& vma : child.vmas()) {
    if (!vma.special()) continue;
    EXPECT_TRUE(scanner.touched(vma).empty()) << vma.name();
  }
  ::munmap(base, 64 * kPage);
}

TEST(PageScan, AHugeReservationIsQuickAndEmpty) {
  char* base = map_pages((64ull << 30) / kPage, PROT_NONE);
  Child child([](auto&) {});
  if (PageScanner::kernel_can_scan()) {
    EXPECT_TRUE(PageScanner(child.pid()).content(range_at(base, (64ull << 30) / kPage)).empty());
  }
  ::munmap(base, 64ull << 30);
}

}  // namespace
}  // namespace ckpt
