// Reading stored pages again, and saying which files of which images are hurt.
#include <bitset>
#include <random>

#include "engine/base/record.h"
#include "engine/store/collector.h"
#include "engine/store/stored_image.h"

namespace ckpt {

namespace {

constexpr uint64_t kSample = 100;

class Checker {
 public:
  Checker(std::shared_ptr<StoreCore> core, bool full, const Progress& progress)
      : core_(std::move(core)), full_(full), progress_(progress) {}

  CheckResult run() {
    check_packs();
    check_images();
    for (const auto& [pack, slots] : damaged_) {
      if (!blamed_.contains(pack)) {
        result_.damage.push_back(
            fmt::format("pack {}: {} pages are damaged, no image refers to them", pack, slots.count()));
      }
    }
    return std::move(result_);
  }

 private:
  using Slots = std::bitset<kPagesPerBlock>;

  void check_packs();
  void check_pack(uint64_t pack, const PackRow& row);
  void check_images();
  void check_image(const RocksImage& image);
  void check_file(const RocksImage& image, const std::string& path, const FileRecord& file);
  bool digests_fit(const FileRecord& file);
  Digest page_digest(const Extent& e, size_t page, size_t bytes);

  const std::shared_ptr<StoreCore> core_;
  const bool full_;
  const Progress& progress_;
  CheckResult result_;
  std::map<uint64_t, Slots> damaged_;
  std::set<uint64_t> blamed_;
};

void Checker::check_packs() {
  // The sample is another one each time.
  std::random_device random;
  const uint64_t total = core_->packs;
  const uint64_t chosen = total == 0 ? 0 : random() % std::min(total, kSample);
  rocksdb::ReadOptions options;
  options.fill_cache = false;
  uint64_t number = 0;
  const std::unique_ptr<rocksdb::Iterator> it(core_->db->NewIterator(options, core_->db.index));
  for (it->SeekToFirst(); it->Valid(); it->Next(), ++number) {
    if (!full_ && number % kSample != chosen) continue;
    const uint64_t pack = parse_id(it->key().ToStringView());
    try {
      check_pack(pack, decode_row(it->value().ToStringView(), fmt::format("pack {}", pack)));
    } catch (const Error& e) {
      result_.damage.push_back(e.sentence());
    }
    if (progress_ && !progress_(std::min(number, total) * kBlockSize, total * kBlockSize)) {
      fail(EINTR, "the check was interrupted");
    }
  }
  check_status(it->status(), "{}: the digests of the packs cannot be read", core_->db.dir());
}

void Checker::check_pack(uint64_t pack, const PackRow& row) {
  try {
    rocksdb::PinnableSlice value;
    rocksdb::ReadOptions options;
    options.fill_cache = false;
    check_status(core_->db->Get(options, core_->db.packs, pack_key(pack), &value), "pack {}", pack);
    const PackView view(as_span(value), pack);
    for (uint16_t slot = 0; slot < row.digests.size(); ++slot) {
      if (row.digests[slot] == Digest{}) continue;
      ++result_.pages_checked;
      if (!view.has(slot) || digest_bytes(view.pages(slot, 1).first(row.bytes(slot))) != row.digests[slot]) {
        damaged_[pack].set(slot);
      }
    }
  } catch (const Error&) {
    for (size_t slot = 0; slot < row.digests.size(); ++slot) {
      if (row.digests[slot] != Digest{}) damaged_[pack].set(slot);
    }
    result_.pages_checked += row.digests.size();
  }
}

void Checker::check_images() {
  std::vector<ImageInfo> infos;
  {
    const std::shared_lock lock(core_->names_mutex);
    for (const auto& [name, info] : core_->names) infos.push_back(info);
  }
  for (const ImageInfo& info : infos) {
    try {
      const std::shared_lock lock(core_->names_mutex);
      const auto now = core_->names.find(info.name);
      if (now == core_->names.end() || now->second.id != info.id) continue;   // deleted meanwhile
      check_image(*RocksImage::load(core_, info));
    } catch (const Error& e) {
      result_.damage.push_back(e.sentence());
    }
  }
}

void Checker::check_image(const RocksImage& image) {
  for (size_t i = 0; i < image.entries().size(); ++i) {
    ++result_.files_checked;
    check_file(image, image.entries()[i].path, *image.files()[i]);
  }
}

void Checker::check_file(const RocksImage& image, const std::string& path, const FileRecord& file) {
  size_t pages = 0;
  for (const Block& block : file.blocks) {
    for (const Extent& e : block.extents) {
      const auto it = damaged_.find(e.pack);
      if (it == damaged_.end()) continue;
      for (size_t slot = e.slot; slot < size_t{e.slot} + e.pages; ++slot) pages += it->second[slot] ? 1 : 0;
      blamed_.insert(e.pack);
    }
  }
  const std::string where = fmt::format("{}: {}", image.describe(), escape(path));
  if (pages != 0) {
    result_.damage.push_back(fmt::format("{}: {} pages are damaged", where, pages));
  } else if (!digests_fit(file)) {
    result_.damage.push_back(fmt::format("{}: its content does not fit its digest", where));
  }
}

// Whether the digests of a file, its blocks and its pages belong together. Block lists in a full check only: the rows
// of all their packs are read for it.
bool Checker::digests_fit(const FileRecord& file) {
  if (file.inlined) return digest_file(std::as_bytes(std::span(file.content))) == file.digest;
  std::vector<Digest> blocks;
  for (uint64_t i = 0; i < file.blocks.size(); ++i) {
    const Block& block = file.blocks[i];
    blocks.push_back(block.digest);
    if (!full_) continue;
    size_t left = block_bytes(file.size, i);
    std::vector<Digest> pages;
    for (const Extent& e : block.extents) {
      for (size_t page = 0; page < e.pages; ++page) {
        const size_t bytes = std::min(kPageSize, left);
        pages.push_back(page_digest(e, page, bytes));
        left -= bytes;
      }
    }
    if (combine_digests(pages) != block.digest) return false;
  }
  return combine_digests(blocks) == file.digest;
}

Digest Checker::page_digest(const Extent& e, size_t page, size_t bytes) {
  if (e.pack == kZeroPack) {
    static constexpr std::array<std::byte, kPageSize> zeros{};
    return bytes == kPageSize ? zero_page_digest() : digest_bytes(std::span(zeros).first(bytes));
  }
  const auto row = core_->rows.get(e.pack);
  const size_t slot = e.slot + page;
  return slot < row->digests.size() ? row->digests[slot] : Digest{};
}

}  // namespace

CheckResult check_store(const std::shared_ptr<StoreCore>& core, Store::CheckLevel level, const Progress& progress) {
  // A pack does not go while it is looked at.
  const std::lock_guard lock(core->collection_mutex);
  return Checker(core, level == Store::CheckLevel::full, progress).run();
}

}  // namespace ckpt
