// Files that are written in any order, as the drop box does.
#include "tests/unit/store_fixture.h"

namespace ckpt {
namespace {

// What the file should hold.
class Model {
 public:
  void write(uint64_t offset, std::span<const std::byte> data) {
    if (offset + data.size() > bytes_.size()) bytes_.resize(offset + data.size());
    std::copy(data.begin(), data.end(), bytes_.begin() + static_cast<ptrdiff_t>(offset));
  }
  void truncate(uint64_t size) { bytes_.resize(size); }
  const std::vector<std::byte>& bytes() const { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

std::string content(const StagedFile& file) {
  std::string out(file.size(), ' ');
  file.read(0, std::as_writable_bytes(std::span(out)));
  return out;
}

class StagedTest : public StoreTest {
 protected:
  StagedTest() : builder_(store_->begin_image("restore/x")) {}
  ~StagedTest() override { builder_.reset(); }
  std::shared_ptr<const StoredImage> commit() {
    builder_->write_manifest(header(1));
    return builder_->commit("x");
  }
  std::unique_ptr<ImageBuilder> builder_;
};

// Sizes and offsets that meet the edges: of a page, of what is kept inline, of a block.
uint64_t odd_number(std::mt19937_64& random, uint64_t max) {
  static constexpr uint64_t edges[] = {0, 1, 4095, 4096, 4097, 65535, 65536, 65537, kBlockSize - 1, kBlockSize,
                                       kBlockSize + 1, 2 * kBlockSize, 3 * kBlockSize};
  const uint64_t n = random() % 3 == 0 ? random() % (max + 1) : edges[random() % std::size(edges)];
  return std::min(n, max);
}

TEST_F(StagedTest, RandomWritesAgreeWithAModel) {
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    std::mt19937_64 random(seed);
    const std::string path = "f" + std::to_string(seed);
    const auto file = builder_->open(path);
    Model model;
    const uint64_t reach = seed % 3 == 0 ? 100'000 : 4 * kBlockSize;
    for (int step = 0; step < 40; ++step) {
      const uint64_t offset = odd_number(random, reach);
      switch (random() % 6) {
        case 0:
          file->truncate(offset);
          model.truncate(offset);
          break;
        case 1: {
          std::vector<std::byte> out(odd_number(random, 2 * kBlockSize));
          file->read(offset, out);
          std::vector<std::byte> expected = model.bytes();
          expected.resize(std::max<size_t>(expected.size(), offset + out.size()));
          ASSERT_TRUE(std::equal(out.begin(), out.end(), expected.begin() + static_cast<ptrdiff_t>(offset)));
          break;
        }
        case 2: {   // zeros
          const std::vector<std::byte> zeros(odd_number(random, 2 * kBlockSize));
          file->write(offset, zeros);
          if (!zeros.empty()) model.write(offset, zeros);
          break;
        }
        default: {
          const auto data = noise(odd_number(random, 2 * kBlockSize), random());
          file->write(offset, data);
          if (!data.empty()) model.write(offset, data);
        }
      }
      ASSERT_EQ(file->size(), model.bytes().size()) << "seed " << seed << " step " << step;
    }
    ASSERT_EQ(content(*file), text(model.bytes())) << "seed " << seed;
    EXPECT_EQ(builder_->digest(path), digest_file(model.bytes())) << "seed " << seed;
    EXPECT_EQ(builder_->read(path), text(model.bytes()));
  }
  std::map<std::string, std::string> before;
  for (const ImageEntry& e : std::vector(builder_->entries())) before[e.path] = builder_->read(e.path);
  EXPECT_NO_THROW(commit());
  builder_.reset();
  reopen();
  const auto image = store_->open_image("x");
  for (const auto& [path, expected] : before) EXPECT_EQ(image->read(path), expected) << path;
  EXPECT_NO_THROW(verify_image(*image));
  builder_ = store_->begin_image("restore/y");
}

TEST_F(StagedTest, CopyingMovesReferences) {
  const auto data = noise(30 * kBlockSize + 5000, 3);
  const auto image = save("a", data);
  const uint64_t before = pages();
  auto file = builder_->open("data");
  // As the kernel's copy_file_range asks: as much as there may be.
  EXPECT_EQ(file->copy_from(*image, "data", 0, 0, 1ULL << 32), data.size());
  EXPECT_EQ(file->copy_from(*image, "data", data.size(), 0, 10), 0u);
  EXPECT_EQ(builder_->digest("data"), digest_file(data));
  auto odd = builder_->open("odd");
  EXPECT_EQ(odd->copy_from(*image, "data", 100, 7, 3 * kBlockSize), 3 * kBlockSize);
  EXPECT_EQ(content(*odd), std::string(7, '\0') + text(data).substr(100, 3 * kBlockSize));
  auto part = builder_->open("part");
  EXPECT_EQ(part->copy_from(*image, "data", kBlockSize, 2 * kBlockSize, kBlockSize + 10), kBlockSize + 10);
  EXPECT_EQ(content(*part), std::string(2 * kBlockSize, '\0') + text(data).substr(kBlockSize, kBlockSize + 10));
  // Within the image under construction, and onto itself.
  part->copy_from(*builder_, "data", 0, 0, data.size());
  EXPECT_EQ(content(*part), text(data));
  part->copy_from(*builder_, "part", 0, kBlockSize, kBlockSize);
  EXPECT_EQ(content(*part), text(data).replace(kBlockSize, kBlockSize, text(data).substr(0, kBlockSize)));
  store_->delete_image("a");
  store_->collect_garbage(false);
  odd->truncate(0);
  commit();
  for (auto* open : {&file, &odd, &part}) open->reset();   // an open file keeps its builder
  builder_.reset();
  store_->collect_garbage(false);   // what was stored for "odd"
  EXPECT_EQ(pages(), before);
  EXPECT_EQ(store_->open_image("x")->read("data"), text(data));
  EXPECT_TRUE(store_->check(Store::CheckLevel::full).damage.empty());
  builder_ = store_->begin_image("restore/y");
}

TEST_F(StagedTest, CopyingFromAnotherBuilderSurvivesItsEnd) {
  const auto data = noise(3 * kBlockSize, 4);
  {
    const auto other = store_->begin_image("other");
    add_file(*other, "data", data);
    EXPECT_EQ(builder_->open("data")->copy_from(*other, "data", 0, 0, data.size()), data.size());
  }
  store_->collect_garbage(false);
  commit();
  builder_.reset();
  reopen();
  EXPECT_EQ(load("x"), text(data));
  builder_ = store_->begin_image("y");
}

TEST_F(StagedTest, FilesAreRenamedAndRemoved) {
  const auto file = builder_->open("fds/.3.tmp");
  file->write(0, bytes("hello"));
  builder_->rename("fds/.3.tmp", "fds/3");
  file->write(5, bytes("!"));   // the open file goes on under its new name
  EXPECT_EQ(builder_->read("fds/3"), "hello!");
  EXPECT_EQ(builder_->find("fds/.3.tmp"), nullptr);
  ASSERT_NE(builder_->find("fds/3"), nullptr);
  EXPECT_EQ(builder_->find("fds/3")->size, 6u);
  builder_->put("other", "x");
  builder_->rename("other", "fds/3");   // replaces
  EXPECT_EQ(builder_->read("fds/3"), "x");
  file->write(0, bytes("J"));           // a file without a name
  builder_->rename("fds", "dir");
  EXPECT_EQ(builder_->read("dir/3"), "x");
  EXPECT_EQ(error_of([&] { builder_->rename("fds/3", "a"); }), ENOENT);
  EXPECT_EQ(error_of([&] { builder_->rename("dir", "dir/sub"); }), EINVAL);
  builder_->remove("dir/3");
  EXPECT_EQ(error_of([&] { builder_->remove("dir/3"); }), ENOENT);
  EXPECT_TRUE(builder_->entries().empty());
}

TEST_F(StagedTest, HugeSizesAreRefusedWithoutHugeMemory) {
  const auto file = builder_->open("f");
  EXPECT_EQ(error_of([&] { file->truncate(1ULL << 62); }), EFBIG);
  EXPECT_EQ(error_of([&] { file->write(UINT64_MAX - 3, bytes("x")); }), EFBIG);
  EXPECT_EQ(error_of([&] { builder_->create("g", 1ULL << 62); }), EFBIG);
  file->truncate(1ULL << 36);
  file->write((1ULL << 36) - 1, bytes("x"));
  EXPECT_EQ(file->size(), 1ULL << 36);
  file->truncate(3);
  EXPECT_EQ(content(*file), std::string(3, '\0'));
}

}  // namespace
}  // namespace ckpt
