// What the tests of the store share: a store in a temporary directory, and images made of noise.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <random>

#include "engine/base/error.h"
#include "engine/store/store.h"

namespace ckpt {

inline std::vector<std::byte> noise(size_t size, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> out(size);
  for (size_t i = 0; i + 8 <= size; i += 8) {
    const uint64_t word = random();
    std::memcpy(&out[i], &word, 8);
  }
  for (size_t i = size / 8 * 8; i < size; ++i) out[i] = static_cast<std::byte>(random());
  return out;
}

inline std::string text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
inline std::span<const std::byte> bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

inline ManifestHeader header(int pid) {
  ManifestHeader h;
  h.machine = "x86_64";
  h.pid = pid;
  h.pids = {pid};
  h.command = "test";
  return h;
}

/// Adds a file in blocks.
inline void add_file(ImageSink& sink, const std::string& path, std::span<const std::byte> data) {
  const auto file = sink.create(path, data.size());
  for (size_t at = 0, i = 0; at < data.size(); at += kBlockSize, ++i) {
    file->put_block(i, data.subspan(at, std::min(kBlockSize, data.size() - at)));
  }
}

/// The errno that the work fails with, 0 for none.
template <typename F>
int error_of(F&& work) {
  try {
    work();
    return 0;
  } catch (const Error& e) {
    if (getenv("CKPT_SHOW_ERRORS") != nullptr) fprintf(stderr, "%s\n", e.what());
    EXPECT_FALSE(e.sentence().empty());
    return e.err();
  }
}

class StoreTest : public testing::Test {
 protected:
  StoreTest() {
    std::string name = std::filesystem::temp_directory_path() / "ckpt-store-XXXXXX";
    dir_ = mkdtemp(name.data());
    reopen();
  }
  ~StoreTest() override {
    store_.reset();
    std::filesystem::remove_all(dir_);
  }
  void reopen() {
    store_.reset();
    store_ = open_rocksdb_store(dir_ / "store");
  }
  /// Commits an image with one file "data".
  std::shared_ptr<const StoredImage> save(const std::string& name, std::span<const std::byte> data) {
    const auto builder = store_->begin_image("test");
    add_file(*builder, "data", data);
    builder->write_manifest(header(1));
    return builder->commit(name);
  }
  std::string load(const std::string& name) { return store_->open_image(name)->read("data", 1ULL << 32); }
  uint64_t pages() const { return store_->stats().unique_pages; }

  std::filesystem::path dir_;
  std::unique_ptr<Store> store_;
};

}  // namespace ckpt
