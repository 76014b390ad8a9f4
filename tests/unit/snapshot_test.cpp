#include <gtest/gtest.h>

#include "engine/memory/capture_memory.h"
#include "memory_helpers.h"

namespace ckpt {
namespace {

using test::Child;
using test::kPage;
using test::map_pages;
using test::MapImage;

TEST(CaptureMemory, CopiesPatternsIntoSegments) {
  constexpr uint64_t pages = 4000;
  char* base = map_pages(pages);
  char* sparse = map_pages((8ull << 30) / kPage);
  Child child([&](auto&) {
    for (uint64_t i = 0; i < pages; i++) std::memcpy(base + i * kPage, &i, sizeof i);
    ::mprotect(base + 100 * kPage, 10 * kPage, PROT_NONE);
    for (uint64_t i = 0; i < 20; i++) sparse[(i * 400 << 20)] = 's';
  });
  auto snapshot = make_copy_snapshot(child.pid());
  MapImage image;
  const auto vmas = child.vmas();
  const CapturedMemory result = capture_memory(*snapshot, vmas, image, "children/7/", nullptr);
  EXPECT_EQ(result.bytes, image.total_size());
  EXPECT_EQ(result.segments, image.files().size());
  EXPECT_LT(result.bytes, 40ull << 20);
  for (uint64_t i = 0; i < pages; i++) {
    const auto bytes = image.bytes_at(base + i * kPage, sizeof i);
    ASSERT_TRUE(bytes) << i;
    EXPECT_EQ(std::memcmp(bytes->data(), &i, sizeof i), 0) << i;
  }
  for (uint64_t i = 0; i < 20; i++) EXPECT_EQ(image.bytes_at(sparse + (i * 400 << 20), 1), "s");
  ::munmap(base, pages * kPage);
  ::munmap(sparse, 8ull << 30);
}

TEST(CaptureMemory, EndsWhenCancelledOrTheSinkFails) {
  char* base = map_pages(16384);
  Child child([&](auto&) { std::memset(base, 1, 16384 * kPage); });
  auto snapshot = make_copy_snapshot(child.pid());
  {
    MapImage image;
    CancelFlag cancel = false;
    image.on_put = [&] { cancel = true; };
    try {
      capture_memory(*snapshot, child.vmas(), image, "", &cancel);
      ADD_FAILURE();
    } catch (const Error& e) {
      EXPECT_EQ(e.err(), EINTR);
    }
  }
  MapImage image;
  image.on_put = [] { fail(ENOSPC, "no room"); };
  try {
    capture_memory(*snapshot, child.vmas(), image, "", nullptr);
    ADD_FAILURE();
  } catch (const Error& e) {
    EXPECT_EQ(e.err(), ENOSPC);
  }
  ::munmap(base, 16384 * kPage);
}

}  // namespace
}  // namespace ckpt
