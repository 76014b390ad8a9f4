// Content digests: BLAKE3 of pages, 16 at a time, and the tree that makes a file's digest out of them.
//
// The digest of a file, as it stands in a manifest ("blake3-4k-1m"):
//   size <= 4096          BLAKE3(content)                                  (what b3sum prints)
//   size <= 1 MiB         BLAKE3(concatenation of the page digests)        a page is 4096 bytes, the last may be short
//   larger                BLAKE3(concatenation of the block digests)       a block is 1 MiB; each block's digest is
//                                                                          made as for a file of the block's size
// so that pages that are known already (deduplicated, or unchanged since an earlier image) are never hashed again.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace ckpt {

inline constexpr size_t kPageSize = 4096;
inline constexpr size_t kPagesPerBlock = 256;
inline constexpr size_t kBlockSize = kPageSize * kPagesPerBlock;

/// 256 bits of BLAKE3. Full strength: an equal digest is equal content.
struct Digest {
  std::array<uint8_t, 32> bytes{};
  auto operator<=>(const Digest&) const = default;
  /// 64 lower-case hex digits.
  std::string hex() const;
  /// Throws Error(EINVAL) unless `text` is 64 hex digits.
  static Digest from_hex(std::string_view text);
};

/// BLAKE3 of one buffer. Thread-safe.
Digest digest_bytes(std::span<const std::byte> data);

/// out[i] = BLAKE3 of the i-th 4096-byte page of `pages`, whose size is out.size() * 4096 exactly. Sixteen pages go
/// through the widest vector unit at once. Thread-safe.
void digest_pages(std::span<const std::byte> pages, std::span<Digest> out);

/// The same for pages that lie anywhere: out[i] = BLAKE3 of the 4096 bytes at pages[i].
void digest_scattered_pages(std::span<const std::byte* const> pages, std::span<Digest> out);

/// The digest of a page of zeros.
const Digest& zero_page_digest();

/// True where all bytes are zero.
bool is_zero(std::span<const std::byte> data);

/// Digest of a block or of a file from the digests one level below: pages for size <= 1 MiB, blocks above.
/// With one part the digest of that part itself.
Digest combine_digests(std::span<const Digest> parts);

/// The digest of a whole file's content, as above.
Digest digest_file(std::span<const std::byte> content);

}  // namespace ckpt
