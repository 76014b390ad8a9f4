#include "engine/store/format.h"

#include <algorithm>
#include <bit>

#include "engine/base/error.h"
#include "engine/base/record.h"

namespace ckpt {

namespace {

constexpr size_t kBitmapBytes = kPagesPerBlock / 8;
constexpr uint8_t kInlineFile = 1, kBlockFile = 2, kLink = 3;

void put_varint(std::string& out, uint64_t value) {
  while (value >= 0x80) {
    out += static_cast<char>(value | 0x80);
    value >>= 7;
  }
  out += static_cast<char>(value);
}

void put_digest(std::string& out, const Digest& d) {
  out.append(reinterpret_cast<const char*>(d.bytes.data()), d.bytes.size());
}

// Takes a row apart; every step is checked, since a damaged row must be an error and nothing worse.
class RowReader {
 public:
  RowReader(std::string_view row, const std::string& where) : rest_(row), where_(where) {}

  std::string_view take(size_t n) {
    if (n > rest_.size()) damaged();
    const std::string_view out = rest_.substr(0, n);
    rest_.remove_prefix(n);
    return out;
  }
  uint8_t byte() { return static_cast<uint8_t>(take(1)[0]); }
  uint64_t varint(uint64_t max = UINT64_MAX) {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      const uint8_t b = byte();
      value |= uint64_t{b & 0x7fU} << shift;
      if (b < 0x80) {
        if (value > max) damaged();
        return value;
      }
    }
    damaged();
  }
  Digest digest() {
    Digest d;
    std::memcpy(d.bytes.data(), take(d.bytes.size()).data(), d.bytes.size());
    return d;
  }
  size_t left() const { return rest_.size(); }
  void expect_end() const {
    if (!rest_.empty()) damaged();
  }
  [[noreturn]] void damaged() const { fail(EIO, "{}: the store's row is damaged", where_); }

 private:
  std::string_view rest_;
  const std::string& where_;
};

}  // namespace

bool fits_inline(uint64_t size) { return size < kPageSize || (size % kPageSize != 0 && size <= kInlineMax); }

uint64_t block_count(uint64_t size) { return size / kBlockSize + (size % kBlockSize != 0 ? 1 : 0); }

size_t block_bytes(uint64_t size, uint64_t index) { return std::min<uint64_t>(kBlockSize, size - index * kBlockSize); }

size_t PackRow::bytes(uint16_t slot) const {
  for (const ShortPage& page : short_pages) {
    if (page.slot == slot) return page.bytes;
  }
  return kPageSize;
}

PackView::PackView(std::span<const std::byte> value, uint64_t pack) : pack_(pack), pages_(value) {
  if (value.size() % kPageSize == kBitmapBytes) {
    bitmap_ = reinterpret_cast<const uint8_t*>(value.data());
    pages_ = value.subspan(kBitmapBytes);
  } else if (value.size() % kPageSize != 0) {
    fail(EIO, "pack {} has {} bytes", pack, value.size());
  }
}

bool PackView::has(uint16_t slot) const {
  if (slot >= kPagesPerBlock) return false;
  if (bitmap_ == nullptr) return slot < page_count();
  return (bitmap_[slot / 8] >> (slot % 8) & 1) != 0;
}

std::span<const std::byte> PackView::pages(uint16_t slot, uint16_t count) const {
  size_t at = slot;
  if (bitmap_ != nullptr) {
    at = 0;
    for (uint16_t s = 0; s < slot && s < kPagesPerBlock; ++s) at += has(s) ? 1 : 0;
    for (uint16_t s = slot; s < slot + count; ++s) {
      if (!has(s)) fail(EIO, "pack {} has lost page {}", pack_, s);
    }
  }
  if ((at + count) * kPageSize > pages_.size()) fail(EIO, "pack {} has no pages {} to {}", pack_, slot, slot + count);
  return pages_.subspan(at * kPageSize, count * kPageSize);
}

std::string pack_key(uint64_t id) {
  std::string key(8, '\0');
  for (size_t i = 0; i < 8; ++i) key[i] = static_cast<char>(id >> (56 - 8 * i));
  return key;
}

uint64_t parse_id(std::string_view key) {
  if (key.size() < 8) fail(EIO, "a key of the store has {} bytes", key.size());
  uint64_t id = 0;
  for (size_t i = 0; i < 8; ++i) id = id << 8 | static_cast<uint8_t>(key[i]);
  return id;
}

std::string file_key(uint64_t image, std::string_view path) { return pack_key(image).append(path); }

std::string encode_row(std::span<const Digest> digests, std::span<const PackRow::ShortPage> short_pages) {
  std::string out;
  out.reserve(2 + digests.size() * sizeof(Digest) + short_pages.size() * 3);
  put_varint(out, digests.size());
  out.append(reinterpret_cast<const char*>(digests.data()), digests.size_bytes());
  for (const PackRow::ShortPage& page : short_pages) {
    out += static_cast<char>(page.slot);
    put_varint(out, page.bytes);
  }
  return out;
}

PackRow decode_row(std::string_view row, const std::string& where) {
  RowReader in(row, where);
  PackRow out;
  out.digests.resize(in.varint(kPagesPerBlock));
  const size_t bytes = out.digests.size() * sizeof(Digest);
  if (bytes != 0) std::memcpy(out.digests.data(), in.take(bytes).data(), bytes);
  while (in.left() > 0) {
    const uint8_t slot = in.byte();
    const auto length = static_cast<uint16_t>(in.varint(kPageSize - 1));
    if (slot >= out.digests.size()) in.damaged();
    out.short_pages.push_back({slot, length});
  }
  return out;
}

std::string encode_file(const FileRecord& file) {
  std::string out;
  out += static_cast<char>(file.type == EntryType::symlink ? kLink : file.inlined ? kInlineFile : kBlockFile);
  put_varint(out, file.size);
  put_digest(out, file.digest);
  if (file.type == EntryType::symlink || file.inlined) return out.append(file.content);
  for (const Block& block : file.blocks) {
    put_digest(out, block.digest);
    put_varint(out, block.extents.size());
    for (const Extent& e : block.extents) {
      put_varint(out, e.pack);
      put_varint(out, e.slot);
      put_varint(out, e.pages);
    }
  }
  return out;
}

FileRecord decode_file(std::string_view row, const std::string& where) {
  RowReader in(row, where);
  FileRecord out;
  const uint8_t kind = in.byte();
  if (kind < kInlineFile || kind > kLink) in.damaged();
  out.type = kind == kLink ? EntryType::symlink : EntryType::file;
  out.inlined = kind != kBlockFile;
  out.size = in.varint(INT64_MAX);
  out.digest = in.digest();
  if (out.inlined) {
    out.content = in.take(out.size);
    in.expect_end();
    return out;
  }
  const uint64_t count = block_count(out.size);
  if (count > in.left() / sizeof(Digest)) in.damaged();
  out.blocks.resize(count);
  for (uint64_t i = 0; i < count; ++i) {
    Block& block = out.blocks[i];
    block.digest = in.digest();
    block.extents.resize(in.varint(kPagesPerBlock));
    size_t pages = 0;
    for (Extent& e : block.extents) {
      e.pack = in.varint();
      e.slot = static_cast<uint16_t>(in.varint(kPagesPerBlock - 1));
      e.pages = static_cast<uint16_t>(in.varint(kPagesPerBlock));
      if (e.slot + e.pages > static_cast<int>(kPagesPerBlock)) in.damaged();
      pages += e.pages;
    }
    if (pages != page_count(block_bytes(out.size, i))) in.damaged();
  }
  in.expect_end();
  return out;
}

std::string encode_info(const ImageInfo& info) {
  const ManifestHeader& h = info.header;
  Record r;
  r.add("id", info.id);
  r.add("files", info.files);
  r.add("logical_bytes", info.logical_bytes);
  r.add("format", h.format);
  r.add("machine", h.machine);
  r.add("kernel", h.kernel);
  r.add("hostname", h.hostname);
  r.add("engine", h.engine);
  r.add("time_ns", h.time_ns);
  r.add("stop_ns", h.stop_ns);
  if (h.new_bytes) r.add("new_bytes", *h.new_bytes);
  r.add_hex("xfeatures", h.xfeatures);
  r.add("pid", h.pid);
  for (const int pid : h.pids) r.add("process", pid);
  r.add("command", h.command);
  r.add("uid", h.uid);
  r.add("gid", h.gid);
  return r.text();
}

ImageInfo decode_info(std::string_view row, const std::string& name) {
  try {
    const Record r = Record::parse(row, "images/" + name);
    ImageInfo info;
    info.name = name;
    info.id = r.get_u64("id");
    info.files = r.get_u64("files");
    info.logical_bytes = r.get_u64("logical_bytes");
    ManifestHeader& h = info.header;
    h.format = static_cast<int>(r.get_u64("format", INT32_MAX));
    h.machine = r.get("machine");
    h.kernel = r.get("kernel");
    h.hostname = r.get("hostname");
    h.engine = r.get("engine");
    h.time_ns = r.get_u64("time_ns");
    h.stop_ns = r.get_u64("stop_ns");
    if (r.has("new_bytes")) h.new_bytes = r.get_u64("new_bytes");
    h.xfeatures = r.get_u64("xfeatures");
    h.pid = static_cast<int>(r.get_u64("pid", INT32_MAX));
    for (const std::string& pid : r.all("process")) h.pids.push_back(static_cast<int>(parse_u64(pid).value_or(0)));
    h.command = r.get("command");
    h.uid = static_cast<uint32_t>(r.get_u64("uid", UINT32_MAX));
    h.gid = static_cast<uint32_t>(r.get_u64("gid", UINT32_MAX));
    return info;
  } catch (const Error& e) {
    fail(EIO, "images/{}: the store's row is damaged ({})", name, e.sentence());
  }
}

}  // namespace ckpt
