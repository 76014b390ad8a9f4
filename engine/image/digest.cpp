#include "engine/image/digest.h"

#include <immintrin.h>

#include <algorithm>

#include "engine/base/error.h"

extern "C" {
#ifdef CKPT_BLAKE3_SOURCES
#include <blake3_impl.h>
#else
#include <blake3.h>
#endif
}

namespace ckpt {

namespace {

int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

#ifdef CKPT_BLAKE3_SOURCES

constexpr size_t kBatch = 16;  // pages, the lanes of AVX-512
constexpr size_t kChunksPerPage = kPageSize / BLAKE3_CHUNK_LEN;
constexpr size_t kDigestSize = BLAKE3_OUT_LEN;

// BLAKE3 cuts its input into chunks of 1 KiB and joins them by a binary tree: a page is four chunks, two parents and
// a root. A hash of one page fills four lanes of the vector unit at most; chunk k of 16 pages fills all of them.
void digest_batch(const std::byte* const* pages, size_t count, Digest* out) {
  uint8_t chunk[kChunksPerPage][kBatch][kDigestSize];
  const uint8_t* inputs[kBatch * 2];
  for (size_t k = 0; k < kChunksPerPage; ++k) {
    for (size_t i = 0; i < count; ++i) {
      inputs[i] = reinterpret_cast<const uint8_t*>(pages[i]) + k * BLAKE3_CHUNK_LEN;
    }
    blake3_hash_many(inputs, count, BLAKE3_CHUNK_LEN / BLAKE3_BLOCK_LEN, IV, k, false, 0, CHUNK_START, CHUNK_END,
                     chunk[k][0]);
  }
  uint8_t pairs[kBatch * 2][2 * kDigestSize];
  for (size_t i = 0; i < count * 2; ++i) {
    std::memcpy(pairs[i], chunk[(i % 2) * 2][i / 2], kDigestSize);
    std::memcpy(pairs[i] + kDigestSize, chunk[(i % 2) * 2 + 1][i / 2], kDigestSize);
    inputs[i] = pairs[i];
  }
  uint8_t parents[kBatch * 2][kDigestSize];
  blake3_hash_many(inputs, count * 2, 1, IV, 0, false, PARENT, 0, 0, parents[0]);
  for (size_t i = 0; i < count; ++i) inputs[i] = parents[i * 2];
  static_assert(sizeof(Digest) == kDigestSize);
  blake3_hash_many(inputs, count, 1, IV, 0, false, PARENT | ROOT, 0, 0, out->bytes.data());
}

#else

constexpr size_t kBatch = 1;

void digest_batch(const std::byte* const* page, size_t, Digest* out) {
  *out = digest_bytes(std::span(*page, kPageSize));
}

#endif

Digest digest_block(std::span<const std::byte> block) {
  Digest pages[kPagesPerBlock];
  const size_t whole = block.size() / kPageSize;
  const size_t tail = block.size() % kPageSize;
  digest_pages(block.first(whole * kPageSize), std::span(pages, whole));
  if (tail != 0) pages[whole] = digest_bytes(block.last(tail));
  return combine_digests(std::span(pages, whole + (tail != 0 ? 1 : 0)));
}

}  // namespace

std::string Digest::hex() const {
  static constexpr char digits[] = "0123456789abcdef";
  std::string out;
  out.reserve(bytes.size() * 2);
  for (const uint8_t b : bytes) {
    out += digits[b >> 4];
    out += digits[b & 15];
  }
  return out;
}

Digest Digest::from_hex(std::string_view text) {
  Digest d;
  if (text.size() != d.bytes.size() * 2) fail(EINVAL, "a digest has 64 hex digits, not {}", text.size());
  for (size_t i = 0; i < d.bytes.size(); ++i) {
    const int high = hex_value(text[i * 2]);
    const int low = hex_value(text[i * 2 + 1]);
    if (high < 0 || low < 0) fail(EINVAL, "a digest has hex digits only");
    d.bytes[i] = static_cast<uint8_t>(high << 4 | low);
  }
  return d;
}

Digest digest_bytes(std::span<const std::byte> data) {
  blake3_hasher hasher;
  blake3_hasher_init(&hasher);
  blake3_hasher_update(&hasher, data.data(), data.size());
  Digest d;
  blake3_hasher_finalize(&hasher, d.bytes.data(), d.bytes.size());
  return d;
}

void digest_pages(std::span<const std::byte> pages, std::span<Digest> out) {
  const std::byte* batch[kBatch];
  for (size_t i = 0; i < out.size(); i += kBatch) {
    const size_t count = std::min(kBatch, out.size() - i);
    for (size_t k = 0; k < count; ++k) batch[k] = pages.data() + (i + k) * kPageSize;
    digest_batch(batch, count, &out[i]);
  }
}

void digest_scattered_pages(std::span<const std::byte* const> pages, std::span<Digest> out) {
  for (size_t i = 0; i < out.size(); i += kBatch) {
    digest_batch(&pages[i], std::min(kBatch, out.size() - i), &out[i]);
  }
}

const Digest& zero_page_digest() {
  static const Digest digest = [] {
    const std::array<std::byte, kPageSize> zeros{};
    return digest_bytes(zeros);
  }();
  return digest;
}

bool is_zero(std::span<const std::byte> data) {
  // The first bytes by hand, the rest by comparing the buffer with itself, shifted: memcmp has the widest loads.
  constexpr size_t kHead = 64;
  const size_t head = std::min(kHead, data.size());
  for (size_t i = 0; i < head; ++i) {
    if (data[i] != std::byte{0}) return false;
  }
  return data.size() <= kHead || std::memcmp(data.data(), data.data() + kHead, data.size() - kHead) == 0;
}

Digest combine_digests(std::span<const Digest> parts) {
  if (parts.size() == 1) return parts[0];
  return digest_bytes(std::as_bytes(parts));
}

Digest digest_file(std::span<const std::byte> content) {
  std::vector<Digest> blocks;
  for (size_t at = 0; at < content.size(); at += kBlockSize) {
    blocks.push_back(digest_block(content.subspan(at, std::min(kBlockSize, content.size() - at))));
  }
  return combine_digests(blocks);
}

}  // namespace ckpt
