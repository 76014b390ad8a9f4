#include "engine/store/stored_image.h"

#include <algorithm>
#include <array>

namespace ckpt {

namespace {

// A zero run is handed out from here.
const std::array<std::byte, kBlockSize> kZeros{};

}  // namespace

std::span<const std::byte> PackReader::operator()(const Extent& extent) {
  if (extent.pack != pack_) {
    pack_ = kZeroPack;
    value_ = db_.recent_pack(extent.pack);
    view_ = PackView(as_span(*value_), extent.pack);
    pack_ = extent.pack;
  }
  return view_.pages(extent.slot, extent.pages);
}

void visit_block(std::span<const Extent> extents, uint64_t block_start, uint64_t offset, uint64_t length,
                 const PackAccess& packs, const ImageSource::Visitor& v) {
  static constexpr Extent hole{kZeroPack, 0, kPagesPerBlock};
  if (extents.empty()) extents = {&hole, 1};
  const uint64_t end = offset + length;
  uint64_t at = block_start;
  for (const Extent& e : extents) {
    const uint64_t next = at + uint64_t{e.pages} * kPageSize;
    const uint64_t stop = std::min(next, end);
    if (offset < stop) {
      const auto bytes = static_cast<size_t>(stop - offset);
      if (e.pack == kZeroPack) {
        v(offset, std::span(kZeros).first(bytes));
      } else {
        v(offset, packs(e).subspan(offset - at, bytes));
      }
      offset = stop;
    }
    at = next;
  }
}

void check_range(uint64_t size, uint64_t offset, uint64_t length, const std::string& where, std::string_view path) {
  if (offset > size || length > size - offset) {
    fail(EINVAL, "{}: {}: bytes {} to {} are beyond its end", where, path, offset, offset + length);
  }
}

std::shared_ptr<RocksImage> RocksImage::load(const std::shared_ptr<StoreCore>& core, const ImageInfo& info,
                                             const rocksdb::Snapshot* snapshot) {
  const std::string prefix = pack_key(info.id);
  rocksdb::ReadOptions options;
  options.snapshot = snapshot;
  const std::unique_ptr<rocksdb::Iterator> it(core->db->NewIterator(options, core->db.files));
  std::vector<ImageEntry> entries;
  Files files;
  for (it->Seek(prefix); it->Valid() && it->key().starts_with(prefix); it->Next()) {
    std::string path(it->key().ToStringView().substr(prefix.size()));
    auto file = std::make_shared<const FileRecord>(
        decode_file(it->value().ToStringView(), fmt::format("images/{}: {}", info.name, path)));
    entries.push_back({std::move(path), file->type, file->size});
    files.push_back(std::move(file));
  }
  check_status(it->status(), "images/{}: its files cannot be read", info.name);
  if (entries.size() != info.files) {
    fail(EIO, "images/{}: {} files of {} are there", info.name, entries.size(), info.files);
  }
  return std::make_shared<RocksImage>(core, info, std::move(entries), std::move(files));
}

const FileRecord& RocksImage::file(std::string_view path) const {
  const ImageEntry* entry = find(path);
  if (entry == nullptr) fail(ENOENT, "{}: no file {}", describe(), path);
  return *files_[static_cast<size_t>(entry - entries_.data())];
}

std::string RocksImage::read_link(std::string_view path) const {
  const FileRecord& f = file(path);
  if (f.type != EntryType::symlink) fail(EINVAL, "{}: {} is not a symbolic link", describe(), path);
  return f.content;
}

void RocksImage::visit(std::string_view path, uint64_t offset, uint64_t length, const Visitor& v) const {
  const FileRecord& f = file(path);
  if (f.type != EntryType::file) fail(EINVAL, "{}: {} is a symbolic link", describe(), path);
  check_range(f.size, offset, length, describe(), path);
  if (length == 0) return;
  if (f.inlined) {
    v(offset, std::as_bytes(std::span(f.content)).subspan(offset, length));
    return;
  }
  PackReader reader(core_->db);
  // Only what the store says is about this file; the visitor's own errors go through.
  const PackAccess packs = [&](const Extent& extent) {
    try {
      return reader(extent);
    } catch (const Error& e) {
      fail(e.err(), "{}: {}: {}", describe(), path, e.sentence());
    }
  };
  for (const uint64_t end = offset + length; offset < end;) {
    const uint64_t index = offset / kBlockSize;
    const uint64_t bytes = std::min(end - offset, (index + 1) * kBlockSize - offset);
    visit_block(f.blocks[index].extents, index * kBlockSize, offset, bytes, packs, v);
    offset += bytes;
  }
}

Digest RocksImage::digest(std::string_view path) const { return file(path).digest; }

}  // namespace ckpt
