#include <fcntl.h>
#include <unistd.h>

#include <thread>

#include "engine/base/fd.h"
#include "tests/unit/store_fixture.h"

namespace ckpt {
namespace {

class GcTest : public StoreTest {
 protected:
  void expect_pages_soon(uint64_t wanted) {
    for (int i = 0; pages() != wanted; ++i) {
      ASSERT_LT(i, 1000) << "the collection never came";
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  }
};

TEST_F(GcTest, FreesThePagesOfADeletedImage) {
  const auto a = noise(40 * kBlockSize, 1), b = noise(3 * kBlockSize, 2);
  save("a", a);
  save("b", b);
  EXPECT_EQ(store_->collect_garbage(false).pages_freed, 0u);
  store_->delete_image("a");
  store_->collect_garbage(false);
  EXPECT_EQ(pages(), 3 * kPagesPerBlock);
  EXPECT_LT(store_->stats().stored_bytes, 20 * kBlockSize);
  EXPECT_EQ(load("b"), text(b));
  reopen();
  EXPECT_EQ(pages(), 3 * kPagesPerBlock);
  EXPECT_EQ(load("b"), text(b));
  EXPECT_TRUE(store_->check(Store::CheckLevel::full).damage.empty());
  // The pages are gone from the index too: they are stored again.
  save("a", a);
  EXPECT_EQ(load("a"), text(a));
  EXPECT_EQ(pages(), 43 * kPagesPerBlock);
}

TEST_F(GcTest, ADryRunChangesNothing) {
  const auto open = save("a", noise(2 * kBlockSize, 1));
  EXPECT_EQ(store_->collect_garbage(true).pages_freed, 0u);
  const auto builder = store_->begin_image("x");   // discarded below
  add_file(*builder, "data", noise(20 * kBlockSize, 2));
  const uint64_t before = pages();
  EXPECT_EQ(store_->collect_garbage(true).pages_freed, 0u);
  EXPECT_EQ(pages(), before);
}

TEST_F(GcTest, PacksWithFewLivePagesAreRewritten) {
  const auto big = noise(40 * kBlockSize + 77, 1);
  save("big", big);
  // Every tenth page stays, and the short last one.
  std::vector<std::byte> few;
  for (size_t at = 0; at < 40 * kBlockSize; at += 10 * kPageSize) few.insert(few.end(), &big[at], &big[at] + kPageSize);
  few.insert(few.end(), big.end() - 77, big.end());
  save("few", few);
  store_->delete_image("big");
  const GcResult result = store_->collect_garbage(false);
  // The background collection may have been first.
  EXPECT_TRUE(result.packs_rewritten == 0 || result.packs_rewritten >= 40) << result.packs_rewritten;
  EXPECT_EQ(pages(), few.size() / kPageSize + 1);
  EXPECT_EQ(load("few"), text(few));
  EXPECT_TRUE(store_->check(Store::CheckLevel::full).damage.empty());
  EXPECT_LT(store_->stats().stored_bytes, 20 * kBlockSize);
  reopen();
  EXPECT_EQ(load("few"), text(few));
  EXPECT_EQ(pages(), few.size() / kPageSize + 1);
  save("big", big);
  EXPECT_EQ(load("big"), text(big));
  EXPECT_EQ(pages(), 40 * kPagesPerBlock + 1);
  EXPECT_TRUE(store_->check(Store::CheckLevel::full).damage.empty());
}

TEST_F(GcTest, WhatAnOpenImageReadsStays) {
  const auto data = noise(12 * kBlockSize, 1);
  save("a", data);
  {
    const auto image = store_->open_image("a");
    store_->delete_image("a");
    store_->collect_garbage(false);
    EXPECT_EQ(image->read("data"), text(data));
  }
  store_->collect_garbage(false);
  EXPECT_EQ(pages(), 0u);
}

TEST_F(GcTest, WhatABuilderHasFoundStays) {
  const auto data = noise(12 * kBlockSize, 1);
  save("a", data);
  const auto builder = store_->begin_image("x");
  add_file(*builder, "data", data);
  store_->delete_image("a");
  store_->collect_garbage(false);
  builder->write_manifest(header(1));
  builder->commit("b");
  store_->collect_garbage(false);
  EXPECT_EQ(load("b"), text(data));
  EXPECT_EQ(pages(), 12 * kPagesPerBlock);
}

TEST_F(GcTest, RunsInTheBackgroundAfterADeletion) {
  save("a", noise(12 * kBlockSize, 1));
  store_->delete_image("a");
  expect_pages_soon(0);
  save("a", noise(12 * kBlockSize, 1));
  store_->delete_image("a");
  reopen();   // before it came: it comes after the start
  expect_pages_soon(0);
}

TEST_F(GcTest, WhatWasInUseIsCollectedWhenItIsLetGo) {
  const auto data = noise(12 * kBlockSize, 1);
  save("a", data);
  auto image = store_->open_image("a");
  auto builder = store_->begin_image("x");
  add_file(*builder, "data", data);
  store_->delete_image("a");
  store_->collect_garbage(false);
  EXPECT_EQ(pages(), 12 * kPagesPerBlock);
  builder.reset();
  store_->collect_garbage(false);
  EXPECT_EQ(pages(), 12 * kPagesPerBlock);
  image.reset();
  expect_pages_soon(0);
  save("a", data);
  builder = store_->begin_image("x");
  add_file(*builder, "data", data);
  store_->delete_image("a");
  store_->collect_garbage(false);
  EXPECT_EQ(pages(), 12 * kPagesPerBlock);
  builder.reset();
  expect_pages_soon(0);
}

TEST_F(GcTest, CollectsBesideWritersWithoutLosingAPage) {
  std::atomic<bool> stop = false;
  std::vector<std::thread> threads;
  std::atomic<uint64_t> rounds = 0;
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937_64 random(static_cast<uint64_t>(t));
      for (int i = 0; i < 25; ++i) {
        // Few seeds: what one thread deletes, the other finds.
        const auto data = noise((1 + random() % 14) * kBlockSize, random() % 4);
        const std::string name = fmt::format("{}-{}", t, i);
        save(name, data);
        if (load(name) != text(data)) ADD_FAILURE() << name << " lost pages";
        if (random() % 4 != 0) store_->delete_image(name);
      }
      stop = true;
    });
  }
  while (!stop) {
    store_->collect_garbage(false);
    ++rounds;
  }
  for (std::thread& t : threads) t.join();
  EXPECT_GT(rounds, 0u);
  const CheckResult check = store_->check(Store::CheckLevel::full);
  EXPECT_TRUE(check.damage.empty()) << check.damage[0];
  for (const ImageInfo& info : store_->images()) EXPECT_NO_THROW(verify_image(*store_->open_image(info.name)));
  reopen();
  EXPECT_TRUE(store_->check(Store::CheckLevel::full).damage.empty());
}

// ---- damage -----------------------------------------------------------------------------------------------------

// Turns a bit in the middle of every page that begins like this one, in whatever file of the store it is.
int flip(const std::filesystem::path& dir, std::span<const std::byte> page) {
  int flips = 0;
  for (const auto& entry : std::filesystem::directory_iterator(dir)) {
    if (!entry.is_regular_file()) continue;
    const std::string all = read_file(entry.path(), 1 << 30);
    for (size_t at = all.find(text(page.first(64))); at != all.npos; at = all.find(text(page.first(64)), at + 1)) {
      const UniqueFd fd = open_at(AT_FDCWD, entry.path(), O_RDWR);
      const std::byte bad = static_cast<std::byte>(all[at + 2000]) ^ std::byte{4};
      pwrite_all(fd.get(), {&bad, 1}, at + 2000, entry.path());
      ++flips;
    }
  }
  return flips;
}

TEST_F(GcTest, ADamagedPageIsNamedAndNeverHandedOut) {
  const auto data = noise(12 * kBlockSize, 1);
  save("good", noise(12 * kBlockSize, 2));
  save("bad", data);
  {
    const auto b = store_->begin_image("x");
    b->put("small", "text");
    add_file(*b, "copy", std::span(data).first(2 * kBlockSize));
    b->write_manifest(header(1));
    b->commit("also");
  }
  store_.reset();
  ASSERT_EQ(flip(dir_ / "store", std::span(data).subspan(kBlockSize + 5 * kPageSize, kPageSize)), 1);
  reopen();
  EXPECT_EQ(load("good"), text(noise(12 * kBlockSize, 2)));
  try {
    load("bad");
    FAIL() << "a damaged page was handed out";
  } catch (const Error& e) {
    EXPECT_EQ(e.err(), EIO);
    EXPECT_NE(e.sentence().find("images/bad: data"), std::string::npos) << e.sentence();
  }
  EXPECT_EQ(store_->open_image("also")->read("small"), "text");
  const CheckResult check = store_->check(Store::CheckLevel::full);
  ASSERT_EQ(check.damage.size(), 2u);
  EXPECT_NE(check.damage[0].find("images/also: copy: "), std::string::npos) << check.damage[0];
  EXPECT_NE(check.damage[1].find("images/bad: data: "), std::string::npos) << check.damage[1];
  EXPECT_GE(check.files_checked, 7u);
}

TEST_F(GcTest, ASampledCheckReadsSome) {
  save("a", noise(12 * kBlockSize, 1));
  const CheckResult check = store_->check(Store::CheckLevel::sampled);
  EXPECT_TRUE(check.damage.empty());
  EXPECT_GE(check.pages_checked, kPagesPerBlock);
  EXPECT_LT(check.pages_checked, 12 * kPagesPerBlock);
  EXPECT_EQ(error_of([&] {
    store_->check(Store::CheckLevel::full, [](uint64_t, uint64_t) { return false; });
  }), EINTR);
}

}  // namespace
}  // namespace ckpt
