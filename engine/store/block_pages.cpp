#include "engine/store/block_pages.h"

#include "engine/base/error.h"

namespace ckpt {

BlockPages::BlockPages(std::span<const std::byte> d) : data(d), count(page_count(d.size())) {
  if (d.empty() || d.size() > kBlockSize) fail(EINVAL, "a block has 1 to {} bytes, not {}", kBlockSize, d.size());
}

void BlockPages::digest_all() {
  std::array<const std::byte*, kPagesPerBlock> full;
  std::array<Digest, kPagesPerBlock> out;
  size_t full_count = 0;
  for (size_t i = 0; i < count; ++i) {
    if (referred[i]) continue;
    const std::span<const std::byte> p = page(i);
    const bool zero = is_zero(p);
    if (zero && p.size() == kPageSize) {
      digests[i] = zero_page_digest();
    } else if (p.size() < kPageSize) {
      digests[i] = digest_bytes(p);
    } else {
      full[full_count++] = p.data();
    }
    if (!zero) unknown[unknown_count++] = static_cast<uint16_t>(i);
  }
  digest_scattered_pages(std::span(full).first(full_count), std::span(out).first(full_count));
  for (size_t k = 0; k < full_count; ++k) digests[unknown[k]] = out[k];
}

bool BlockPages::refer(size_t at, size_t n, PageRef first, RowCache& rows) {
  std::shared_ptr<const PackRow> row;
  if (first.pack != kZeroPack) {
    try {
      row = rows.get(first.pack);
    } catch (const Error&) {
      return false;   // a damaged row: `check` reports it
    }
    for (size_t k = 0; k < n; ++k) {
      const auto slot = static_cast<uint16_t>(first.slot + k);
      if (slot >= row->digests.size() || row->bytes(slot) != kPageSize) return false;
    }
  }
  for (size_t k = 0; k < n; ++k) {
    const size_t i = at / kPageSize + k;
    referred.set(i);
    places[i] = {first.pack, row ? static_cast<uint16_t>(first.slot + k) : uint16_t{0}};
    digests[i] = row ? row->digests[first.slot + k] : zero_page_digest();
  }
  return true;
}

Block BlockPages::block() const {
  Block out;
  out.digest = combine_digests(std::span(digests).first(count));
  for (size_t i = 0; i < count; ++i) {
    const PageRef& p = places[i];
    if (!out.extents.empty()) {
      Extent& last = out.extents.back();
      if (last.pack == p.pack && (p.pack == kZeroPack || last.slot + last.pages == p.slot)) {
        ++last.pages;
        continue;
      }
    }
    out.extents.push_back({p.pack, p.slot, 1});
  }
  out.extents.shrink_to_fit();
  return out;
}

}  // namespace ckpt
