// Pages kept aside, in memory and in a file.
#include "engine/memory/side_pages.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <vector>

#include "engine/image/digest.h"

namespace ckpt {
namespace {

using Page = std::array<std::byte, kPageSize>;

Page page_of(unsigned value) {
  Page page;
  page.fill(static_cast<std::byte>(value));
  return page;
}

UniqueFd memory_file() { return UniqueFd(::memfd_create("side pages", MFD_CLOEXEC | MFD_ALLOW_SEALING)); }

TEST(SidePages, EveryPageComesBackWhereverItWas) {
  constexpr unsigned kPages = 20;
  SidePages pages(3, memory_file);
  std::vector<SidePages::Slot> slots;
  for (unsigned i = 0; i < kPages; ++i) {
    const auto slot = pages.keep(page_of(i));
    ASSERT_TRUE(slot) << i;
    slots.push_back(*slot);
  }
  for (unsigned i = kPages; i-- > 0;) {
    Page found;
    pages.take(slots[i], found.data());
    EXPECT_TRUE(found == page_of(i)) << i;
  }
}

TEST(SidePages, RoomIsUsedAgain) {
  SidePages pages(2);
  const auto first = pages.keep(page_of(1)), second = pages.keep(page_of(2));
  ASSERT_TRUE(first && second);
  EXPECT_FALSE(pages.keep(page_of(3)));
  EXPECT_EQ(pages.free_pages(), 0u);
  pages.drop(*first);
  EXPECT_EQ(pages.free_pages(), 1u);
  EXPECT_TRUE(pages.keep(page_of(4)));
}

TEST(SidePages, TheFileIsOpenedOnceAndOnlyWhenMemoryIsFull) {
  int opened = 0;
  SidePages pages(1, [&] {
    ++opened;
    return UniqueFd();
  });
  EXPECT_TRUE(pages.keep(page_of(1)));
  EXPECT_EQ(opened, 0);
  EXPECT_FALSE(pages.keep(page_of(2)));
  EXPECT_FALSE(pages.keep(page_of(3)));
  EXPECT_EQ(opened, 1);
}

TEST(SidePages, AFileThatCannotGrowLeavesWhatWasKept) {
  int file = -1;
  SidePages pages(1, [&] {
    UniqueFd made = memory_file();
    file = made.get();
    return made;
  });
  std::vector<SidePages::Slot> slots;
  for (unsigned i = 0; i < 3; ++i) {
    const auto slot = pages.keep(page_of(i));
    ASSERT_TRUE(slot);
    slots.push_back(*slot);
  }
  ASSERT_EQ(::fcntl(file, F_ADD_SEALS, F_SEAL_GROW), 0);
  EXPECT_FALSE(pages.keep(page_of(9)));
  EXPECT_FALSE(pages.keep(page_of(9)));
  for (unsigned i = 0; i < slots.size(); ++i) {
    Page found;
    pages.take(slots[i], found.data());
    EXPECT_TRUE(found == page_of(i)) << i;
  }
  // Memory is free again; the file is not asked any more.
  EXPECT_TRUE(pages.keep(page_of(5)));
}

}  // namespace
}  // namespace ckpt
