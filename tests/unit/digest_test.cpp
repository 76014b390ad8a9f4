#include "engine/image/digest.h"

#include <gtest/gtest.h>

#include <random>

#include "engine/base/error.h"

namespace ckpt {
namespace {

std::vector<std::byte> noise(size_t size, uint64_t seed = 1) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> out(size);
  for (std::byte& b : out) b = static_cast<std::byte>(random());
  return out;
}

// The published digest of the empty input and of "abc" (as b3sum prints them).
TEST(Digest, IsBlake3) {
  EXPECT_EQ(digest_bytes({}).hex(), "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
  const std::string abc = "abc";
  EXPECT_EQ(digest_bytes(std::as_bytes(std::span(abc))).hex(),
            "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85");
}

TEST(Digest, PagesInBatchesEqualPagesOneByOne) {
  for (const size_t count : {1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 255, 256}) {
    const std::vector<std::byte> data = noise(count * kPageSize, count);
    std::vector<Digest> out(count);
    digest_pages(data, out);
    for (size_t i = 0; i < count; ++i) {
      ASSERT_EQ(out[i], digest_bytes(std::span(data).subspan(i * kPageSize, kPageSize))) << i << " of " << count;
    }
  }
}

TEST(Digest, HexGoesBothWays) {
  const Digest d = digest_bytes(noise(100));
  EXPECT_EQ(Digest::from_hex(d.hex()), d);
  EXPECT_THROW(Digest::from_hex("12"), Error);
  EXPECT_THROW(Digest::from_hex(std::string(63, '0') + "g"), Error);
}

TEST(Digest, OfAFileIsMadeOfPagesAndBlocks) {
  const std::vector<std::byte> data = noise(2 * kBlockSize + kPageSize + 5);
  const auto file = [&](size_t size) { return digest_file(std::span(data).first(size)); };
  EXPECT_EQ(file(0), digest_bytes({}));
  EXPECT_EQ(file(100), digest_bytes(std::span(data).first(100)));
  EXPECT_EQ(file(kPageSize), digest_bytes(std::span(data).first(kPageSize)));
  const auto page = [&](size_t i, size_t size) { return digest_bytes(std::span(data).subspan(i * kPageSize, size)); };
  const std::vector<Digest> two = {page(0, kPageSize), page(1, 5)};
  EXPECT_EQ(file(kPageSize + 5), combine_digests(two));
  const std::vector<Digest> blocks = {file(kBlockSize), digest_file(std::span(data).subspan(kBlockSize, kBlockSize)),
                                      digest_file(std::span(data).subspan(2 * kBlockSize))};
  EXPECT_EQ(digest_file(data), combine_digests(blocks));
}

TEST(Digest, ZerosAreRecognised) {
  std::vector<std::byte> page(kPageSize);
  EXPECT_TRUE(is_zero(page));
  EXPECT_TRUE(is_zero({}));
  EXPECT_EQ(zero_page_digest(), digest_bytes(page));
  for (const size_t at : {0, 1, 63, 64, 65, 127, 128, 4095}) {
    page[at] = std::byte{1};
    EXPECT_FALSE(is_zero(page)) << at;
    page[at] = std::byte{0};
  }
}

}  // namespace
}  // namespace ckpt
