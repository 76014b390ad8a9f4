#include "engine/store/pack_file.h"

#include <filesystem>

namespace ckpt {

namespace {

constexpr uint64_t kFileBytes = 256 << 20;

}  // namespace

PackFile::PackFile(StoreCore& core)
    : path_(fmt::format("{}/{}.sst", core.staging(), core.next_file++)),
      first_(core.next_pack.fetch_add(kIds)),
      next_(first_) {
  const rocksdb::Options options = core.db.pack_file_options();
  writer_ = std::make_unique<rocksdb::SstFileWriter>(rocksdb::EnvOptions(options), options, core.db.packs,
                                                     /*invalidate_page_cache=*/false);
  check_status(writer_->Open(path_), "{}", path_);
}

PackFile::~PackFile() {
  writer_.reset();
  std::error_code ignored;
  std::filesystem::remove(path_, ignored);
}

void PackFile::put(uint64_t id, std::span<const std::byte> pages, PackRow row) {
  check_status(writer_->Put(pack_key(id), as_slice(pages)), "{}", path_);
  bytes_ += pages.size();
  packs_.push_back({id, std::move(row)});
}

bool PackFile::full() const { return bytes_ + kBlockSize > kFileBytes || next_ == first_ + kIds; }

void PackFile::finish() {
  check_status(writer_->Finish(), "{}", path_);
  writer_.reset();
}

}  // namespace ckpt
