#include "engine/store/image_name.h"
#include "engine/store/store.h"

#include <rocksdb/db.h>

#include <thread>

#include "tests/unit/store_fixture.h"

namespace ckpt {
namespace {

TEST_F(StoreTest, KeepsAnImageOverARestart) {
  const auto big = noise(5 * kBlockSize + 12345, 1);
  {
    const auto builder = store_->begin_image("image of 7");
    add_file(*builder, "segments/1000-2000", big);
    builder->put("fds/3", "type file\n");
    builder->put("empty", "");
    builder->put("page", std::string(4096, 'p'));
    builder->put_link("exe", "/usr/bin/true");
    builder->write_manifest(header(7));
    EXPECT_FALSE(store_->has_image("7"));
    builder->commit("7");
  }
  for (int round = 0; round < 2; ++round) {
    reopen();
    const auto image = store_->open_image("7");
    EXPECT_EQ(image->entries().size(), 6u);
    EXPECT_EQ(image->read("segments/1000-2000"), text(big));
    EXPECT_EQ(image->read("fds/3"), "type file\n");
    EXPECT_EQ(image->read("empty"), "");
    EXPECT_EQ(image->read("page"), std::string(4096, 'p'));
    EXPECT_EQ(image->read_link("exe"), "/usr/bin/true");
    EXPECT_EQ(image->info().header.pid, 7);
    EXPECT_EQ(image->digest("segments/1000-2000"), digest_file(big));
    EXPECT_NO_THROW(verify_image(*image));
    std::string part(10000, ' ');
    image->read_at("segments/1000-2000", kBlockSize - 77, std::as_writable_bytes(std::span(part)));
    EXPECT_EQ(part, text(big).substr(kBlockSize - 77, 10000));
    EXPECT_EQ(error_of([&] { image->read("absent"); }), ENOENT);
    EXPECT_EQ(error_of([&] { image->read_at("fds/3", 5, std::as_writable_bytes(std::span(part))); }), EINVAL);
    ASSERT_EQ(store_->images().size(), 1u);
    EXPECT_EQ(store_->images()[0].header.command, "test");
  }
}

TEST_F(StoreTest, StoresAPageOnce) {
  const auto data = noise(40 * kBlockSize, 1);   // more than what goes through the log
  save("a", data);
  const uint64_t once = pages();
  EXPECT_EQ(once, 40 * kPagesPerBlock);
  save("b", data);
  EXPECT_EQ(pages(), once);
  reopen();
  EXPECT_EQ(pages(), once);
  save("c", data);
  EXPECT_EQ(pages(), once);
  // Shifted by a page, and each page twice: the places differ, the pages do not.
  auto shifted = std::vector(data.begin() + kPageSize, data.end());
  shifted.insert(shifted.end(), data.begin(), data.begin() + 3 * kBlockSize);
  save("d", shifted);
  EXPECT_EQ(pages(), once);
  EXPECT_EQ(load("d"), text(shifted));
  EXPECT_EQ(load("a"), text(data));
}

TEST_F(StoreTest, ZeroPagesCostNothing) {
  std::vector<std::byte> data(3 * kBlockSize + 100);
  save("zeros", data);
  EXPECT_EQ(pages(), 0u);
  EXPECT_EQ(load("zeros"), text(data));
  data[kBlockSize + 5000] = std::byte{1};
  save("one", data);
  EXPECT_EQ(pages(), 1u);
  EXPECT_EQ(load("one"), text(data));
  EXPECT_EQ(store_->open_image("one")->digest("data"), digest_file(data));
}

TEST_F(StoreTest, RepeatedPagesInOneImageAreStoredOnce) {
  std::vector<std::byte> data;
  const auto page = noise(kPageSize, 1);
  for (int i = 0; i < 700; ++i) data.insert(data.end(), page.begin(), page.end());
  data.resize(data.size() - 7);
  save("a", data);
  EXPECT_EQ(pages(), 2u);
  EXPECT_EQ(load("a"), text(data));
}

TEST_F(StoreTest, ATakenNameGoesToTheNewImage) {
  const auto data = [](char c) { return std::string(100, c); };
  for (const char c : {'a', 'b', 'c'}) save("7", bytes(data(c)));
  EXPECT_EQ(load("7"), data('c'));
  EXPECT_EQ(load("7@1"), data('a'));
  EXPECT_EQ(load("7@2"), data('b'));
  store_->delete_image("7@2");
  reopen();
  save("7", bytes(data('d')));
  EXPECT_EQ(load("7@3"), data('c'));
  EXPECT_FALSE(store_->has_image("7@2"));
  EXPECT_EQ(load("7@1"), data('a'));
  // A name given by hand is stepped over.
  store_->rename_image("7@1", "7@4");
  save("7", bytes(data('e')));
  EXPECT_EQ(load("7@5"), data('d'));
  EXPECT_EQ(load("7@4"), data('a'));
}

TEST_F(StoreTest, RenamesAndDeletes) {
  save("a", bytes("1"));
  save("b", bytes("2"));
  EXPECT_EQ(error_of([&] { store_->rename_image("x", "y"); }), ENOENT);
  EXPECT_EQ(error_of([&] { store_->rename_image("a", "b"); }), EEXIST);
  EXPECT_EQ(error_of([&] { store_->rename_image("a", "b/c"); }), EINVAL);
  EXPECT_EQ(error_of([&] { store_->delete_image("x"); }), ENOENT);
  const uint64_t other = store_->open_image("b")->info().id;
  EXPECT_EQ(error_of([&] { store_->rename_image("a", "c", other); }), ENOENT);
  EXPECT_EQ(error_of([&] { store_->delete_image("a", other); }), ENOENT);
  store_->rename_image("a", "c");
  store_->delete_image("b");
  reopen();
  EXPECT_EQ(load("c"), "1");
  EXPECT_FALSE(store_->has_image("a"));
  EXPECT_EQ(error_of([&] { store_->open_image("b"); }), ENOENT);
}

TEST_F(StoreTest, NamesThatCannotBe) {
  for (const char* name : {"", ".", "..", ".x", "a/b", "a b", "a\n", "\x7f", "\xc3\xbc"}) {
    EXPECT_FALSE(valid_image_name(name)) << name;
  }
  EXPECT_FALSE(valid_image_name(std::string(201, 'x')));
  EXPECT_TRUE(valid_image_name("1234@7"));
  EXPECT_EQ(parse_earlier_name("1234@7", "1234"), 7u);
  EXPECT_EQ(parse_earlier_name(earlier_name("a@b", 12), "a@b"), 12u);
  for (const char* name : {"1234", "1234@", "1234@0x7", "1234@07", "1234@7 ", "1234@7x", "1234@+7", "12345@7", "123@7"}) {
    EXPECT_EQ(parse_earlier_name(name, "1234"), std::nullopt) << name;
  }
}

TEST_F(StoreTest, RefusesASecondOpenAndANewerStore) {
  EXPECT_EQ(error_of([&] { open_rocksdb_store(dir_ / "store"); }), EBUSY);
  EXPECT_EQ(error_of([&] { open_rocksdb_store("/proc/self/store"); }), ENOENT);
  EXPECT_EQ(error_of([&] { open_rocksdb_store("/proc/self/status"); }), ENOTDIR);
}

// Changes a number in the closed store, as another version would.
void set_meta(const std::filesystem::path& dir, const std::string& key, const std::string& value) {
  std::vector<std::string> names;
  ASSERT_TRUE(rocksdb::DB::ListColumnFamilies(rocksdb::DBOptions(), dir, &names).ok());
  std::vector<rocksdb::ColumnFamilyDescriptor> families;
  for (const std::string& name : names) families.emplace_back(name, rocksdb::ColumnFamilyOptions());
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  rocksdb::DB* db = nullptr;
  ASSERT_TRUE(rocksdb::DB::Open(rocksdb::DBOptions(), dir, families, &handles, &db).ok());
  ASSERT_TRUE(db->Put(rocksdb::WriteOptions(), handles[0], key, value).ok());
  for (auto* handle : handles) db->DestroyColumnFamilyHandle(handle);
  delete db;
}

TEST_F(StoreTest, RefusesANewerVersion) {
  store_.reset();
  set_meta(dir_ / "store", "version", "2");
  EXPECT_EQ(error_of([&] { reopen(); }), EPROTONOSUPPORT);
  set_meta(dir_ / "store", "version", "1");
  reopen();
}

TEST_F(StoreTest, ABuilderRefusesWhatFitsNoImage) {
  const auto b = store_->begin_image("x");
  b->put("fds/3", "text");
  EXPECT_EQ(error_of([&] { b->put("fds/3", ""); }), EEXIST);
  EXPECT_EQ(error_of([&] { b->put("fds", ""); }), EISDIR);
  EXPECT_EQ(error_of([&] { b->open("fds"); }), EISDIR);
  EXPECT_EQ(error_of([&] { b->put("fds/3/x", ""); }), ENOTDIR);
  EXPECT_EQ(error_of([&] { b->put("../x", ""); }), EINVAL);
  EXPECT_EQ(error_of([&] { b->put_link("l", ""); }), EINVAL);
  EXPECT_EQ(error_of([&] { b->commit("x"); }), ENOENT);   // no manifest
  const auto sink = b->create("data", 2 * kBlockSize);
  EXPECT_EQ(error_of([&] { sink->put_block(0, bytes("short")); }), EINVAL);
  sink->put_block(1, noise(kBlockSize, 1));
  EXPECT_EQ(error_of([&] { sink->put_block(1, noise(kBlockSize, 1)); }), EINVAL);
  b->write_manifest(header(1));
  EXPECT_EQ(error_of([&] { b->commit("x"); }), EINVAL);   // a block is missing
  sink->put_block(0, noise(kBlockSize, 2));
  b->write_manifest(header(1));
  EXPECT_EQ(error_of([&] { b->commit("a b"); }), EINVAL);
  const auto image = b->commit("x");
  EXPECT_NO_THROW(verify_image(*image));
}

TEST_F(StoreTest, WithoutACommitNothingIsLeft) {
  {
    const auto b = store_->begin_image("x");
    add_file(*b, "data", noise(30 * kBlockSize, 1));
    EXPECT_EQ(b->read("data", 1 << 30), text(noise(30 * kBlockSize, 1)));
    b->write_manifest(header(1));
  }
  EXPECT_TRUE(store_->images().empty());
  store_->collect_garbage(false);
  EXPECT_EQ(pages(), 0u);
  reopen();
  EXPECT_EQ(pages(), 0u);
  EXPECT_EQ(store_->stats().packs, 0u);
}

TEST_F(StoreTest, SeveralBuildersSideBySide) {
  const auto common = noise(20 * kBlockSize, 99);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 3; ++i) {
        auto data = noise(9 * kBlockSize + 100, static_cast<uint64_t>(t));
        data.insert(data.begin(), common.begin(), common.end());
        save(fmt::format("{}-{}", t, i), data);
      }
    });
  }
  for (std::thread& t : threads) t.join();
  reopen();
  for (int t = 0; t < 4; ++t) {
    for (int i = 0; i < 3; ++i) {
      const std::string data = load(fmt::format("{}-{}", t, i));
      EXPECT_EQ(data.substr(0, common.size()), text(common));
      EXPECT_EQ(data.substr(common.size()), text(noise(9 * kBlockSize + 100, static_cast<uint64_t>(t))));
    }
  }
  EXPECT_TRUE(store_->check(Store::CheckLevel::full).damage.empty());
}

TEST_F(StoreTest, ManyThreadsFillOneFile) {
  const auto data = noise(64 * kBlockSize, 5);
  auto b = store_->begin_image("x");
  auto sink = b->create("data", data.size());
  std::atomic<uint64_t> next = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 12; ++t) {
    threads.emplace_back([&] {
      for (uint64_t i; (i = next++) < 64;) sink->put_block(i, std::span(data).subspan(i * kBlockSize, kBlockSize));
    });
  }
  for (std::thread& t : threads) t.join();
  b->write_manifest(header(1));
  b->commit("x");
  sink.reset();
  b.reset();
  reopen();
  EXPECT_EQ(load("x"), text(data));
}

}  // namespace
}  // namespace ckpt
