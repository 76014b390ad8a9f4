// How the store's rows look on disk. Column families:
//
//   default  "version" -> "1"; "next image" -> number; "count/NAME" -> K of the last NAME@K; "pending/PACK" -> count of
//            packs in a file that is being ingested; "garbage" -> present while there may be pages nobody refers to
//   packs    pack id, 8 bytes big-endian -> up to 256 pages as they are; after a collection that kept few of them
//            a 32-byte bitmap of the slots that are left, then their pages
//   index    pack id -> digests of the pack's slots, zeros for a slot that is gone (encode_row)
//   images   name -> what is known of the image, as a Record
//   files    image id, 8 bytes big-endian, path -> type, size, digest and content or blocks (encode_file)
//
// Packs with an id of kSmallPacks and above came with the commit of a small image, through the log; those below were
// written as table files. The two never overlap, so that compaction of the first leaves the second alone.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/image/image.h"
#include "engine/store/store.h"

namespace ckpt {

inline constexpr uint64_t kStoreVersion = 1;
inline constexpr uint64_t kZeroPack = 0;             ///< stands for pages of zeros
inline constexpr uint64_t kSmallPacks = 1ULL << 47;
inline constexpr uint64_t kInlineMax = 64 << 10;

/// A run of pages in one pack.
struct Extent {
  uint64_t pack = kZeroPack;
  uint16_t slot = 0;
  uint16_t pages = 0;
};

/// One page in a pack.
struct PageRef {
  uint64_t pack = kZeroPack;
  uint16_t slot = 0;
  bool operator==(const PageRef&) const = default;
};

/// Up to 1 MiB of a file.
struct Block {
  Digest digest;
  std::vector<Extent> extents;   ///< never empty once the block has content
};

struct FileRecord {
  EntryType type = EntryType::file;
  bool inlined = false;          ///< content is here; else in blocks
  uint64_t size = 0;
  Digest digest;
  std::string content;           ///< or a link's target
  std::vector<Block> blocks;
};

/// True where a file of this size is kept in its row: less than a page, or small with a last page that would be padded.
bool fits_inline(uint64_t size);
uint64_t block_count(uint64_t size);
/// Bytes of block `index` of a file of `size` bytes.
size_t block_bytes(uint64_t size, uint64_t index);
inline size_t page_count(size_t bytes) { return (bytes + kPageSize - 1) / kPageSize; }

/// Digests of a pack's slots.
struct PackRow {
  struct ShortPage {
    uint8_t slot;
    uint16_t bytes;              ///< the digest is of these only; zeros follow in the pack
  };
  std::vector<Digest> digests;
  std::vector<ShortPage> short_pages;
  /// The bytes of a slot that its digest is of.
  size_t bytes(uint16_t slot) const;
};

/// Access to the pages in a pack's value, of either form. Refers to the value.
class PackView {
 public:
  PackView() = default;
  /// Throws Error(EIO) where the value has no possible size.
  PackView(std::span<const std::byte> value, uint64_t pack);
  /// Throws Error(EIO) where the pages are not in the pack.
  std::span<const std::byte> pages(uint16_t slot, uint16_t count) const;
  bool has(uint16_t slot) const;
  size_t page_count() const { return pages_.size() / kPageSize; }

 private:
  uint64_t pack_ = 0;
  const uint8_t* bitmap_ = nullptr;   ///< null where every slot is there
  std::span<const std::byte> pages_;
};

std::string pack_key(uint64_t id);
uint64_t parse_id(std::string_view key);
std::string file_key(uint64_t image, std::string_view path);

std::string encode_row(std::span<const Digest> digests, std::span<const PackRow::ShortPage> short_pages);
std::string encode_file(const FileRecord& file);
std::string encode_info(const ImageInfo& info);
/// These throw Error(EIO), beginning with `where`, for a row that is no row.
PackRow decode_row(std::string_view row, const std::string& where);
FileRecord decode_file(std::string_view row, const std::string& where);
ImageInfo decode_info(std::string_view row, const std::string& name);

}  // namespace ckpt
