#include "engine/store/pack_builder.h"

#include <algorithm>

namespace ckpt {

namespace {

constexpr size_t kSmallBytes = 8 << 20;        // new pages that go through the log
constexpr size_t kMaxWriters = 8;

}  // namespace

PackBuilder::PackBuilder(std::shared_ptr<StoreCore> core) : core_(std::move(core)) { core_->add_builder(&pins_); }

PackBuilder::~PackBuilder() {
  if (handed_over_.valid()) handed_over_.wait();
  writers_.clear();  // with their files, whose room the note may need
  if (!note_.empty() && !committed_) core_->note_garbage(note_);
  core_->remove_builder(&pins_);
}

Block PackBuilder::store(std::span<const std::byte> data) {
  BlockPages pages(data);
  return store(pages);
}

Block PackBuilder::store(std::span<std::byte> data, const RocksImage& base, std::span<const SamePages> same) {
  BlockPages pages(data);
  for (const SamePages& part : same) {
    if (part.at % kPageSize != 0 || part.offset % kPageSize != 0 || part.at > data.size() ||
        part.bytes > data.size() - part.at) {
      fail(EINVAL, "{}: {}: bytes {} to {} are no pages of a block", base.describe(), part.path, part.at,
           part.at + part.bytes);
    }
    refer_to(pages, data, base, part);
  }
  return store(pages);
}

// Pages without a row of digests, or of which the digest is not of a whole page, are read as if they were new.
void PackBuilder::refer_to(BlockPages& pages, std::span<std::byte> data, const RocksImage& base, const SamePages& same) {
  const FileRecord& file = base.file(same.path);
  check_range(file.size, same.offset, same.bytes, base.describe(), same.path);
  const auto read = [&](uint64_t from, size_t bytes) {
    base.read_at(same.path, same.offset + from, data.subspan(same.at + from, bytes));
  };
  if (file.inlined) return read(0, same.bytes);
  for (uint64_t done = 0; done < same.bytes;) {
    const uint64_t at = same.offset + done;
    const Block& block = file.blocks[at / kBlockSize];
    pin(block.extents);
    uint64_t start = at / kBlockSize * kBlockSize;
    for (const Extent& extent : block.extents) {
      const uint64_t end = start + uint64_t{extent.pages} * kPageSize;
      if (end > same.offset + done && done < same.bytes) {
        const auto skipped = static_cast<uint16_t>((same.offset + done - start) / kPageSize);
        const uint64_t bytes = std::min<uint64_t>(end - (same.offset + done), same.bytes - done);
        if (!pages.refer(same.at + done, page_count(bytes), {extent.pack, static_cast<uint16_t>(extent.slot + skipped)},
                         core_->rows)) {
          read(done, bytes);
        }
        done += bytes;
      }
      start = end;
    }
  }
}

Block PackBuilder::store(BlockPages& pages) {
  pages.digest_all();
  if (pages.unknown_count != 0) find_known(pages);
  if (pages.unknown_count != 0) find_pending(pages);
  if (pages.unknown_count != 0) {
    guarded([&] { write_new(pages); });
  }
  return pages.block();
}

void PackBuilder::pin(std::span<const Extent> extents) {
  const std::shared_lock lock(core_->reference_mutex);
  for (const Extent& e : extents) {
    if (e.pack != kZeroPack) pins_.add(e.pack);
  }
}

void PackBuilder::find_known(BlockPages& pages) {
  const std::shared_lock lock(core_->reference_mutex);
  std::shared_ptr<const PackRow> row;   // of the last page that was found; the next one is mostly its neighbour
  PageRef last;
  const auto matches = [&](PageRef ref, const Digest& digest) {
    if (ref.pack != last.pack) {
      try {
        row = core_->rows.get(ref.pack);
      } catch (const Error&) {
        return false;   // a damaged row: the page is stored again, `check` reports the row
      }
      pins_.add(ref.pack);
    }
    last = ref;
    return ref.slot < row->digests.size() && row->digests[ref.slot] == digest;
  };
  pages.find_unknown([&](const Digest& digest, PageRef& place) {
    const PageRef next{last.pack, static_cast<uint16_t>(last.slot + 1)};
    bool found = last.pack != kZeroPack && next.slot < kPagesPerBlock && matches(next, digest);
    if (!found) {
      DigestIndex::Candidates candidates;
      const size_t count = core_->index.find(digest, candidates);
      for (size_t c = 0; c < count && !found; ++c) found = matches(candidates[c], digest);
    }
    if (found) place = last;
    return found;
  });
}

void PackBuilder::find_pending(BlockPages& pages) {
  const std::shared_lock lock(pending_mutex_);
  pages.find_unknown([&](const Digest& digest, PageRef& place) {
    DigestIndex::Candidates candidates;
    const size_t count = own_.find(digest, candidates);
    bool found = false;
    for (size_t c = 0; c < count && !found; ++c) {
      const auto pack = pending_.find(candidates[c].pack);
      found = pack != pending_.end() && pack->second.row->digests[candidates[c].slot] == digest;
      if (found) place = candidates[c];
    }
    return found;
  });
}

// Packs are filled in the order in which pages come, so that neighbours in memory are neighbours on disk.
void PackBuilder::write_new(BlockPages& pages) {
  // A page may stand several times in the block: written the first time only.
  std::array<uint16_t, 2 * kPagesPerBlock> table;
  table.fill(UINT16_MAX);
  std::array<uint16_t, kPagesPerBlock> fresh, same_as;
  size_t fresh_count = 0;
  for (size_t k = 0; k < pages.unknown_count; ++k) {
    const uint16_t i = pages.unknown[k];
    size_t at = (pages.digests[i].bytes[8] | pages.digests[i].bytes[9] << 8) % table.size();
    while (table[at] != UINT16_MAX && pages.digests[table[at]] != pages.digests[i]) at = (at + 1) % table.size();
    if (table[at] == UINT16_MAX) {
      table[at] = i;
      fresh[fresh_count++] = i;
    }
    same_as[k] = table[at];
  }
  new_pages_ += fresh_count;
  auto [writer, lock] = take_writer();
  if (fresh_count == kPagesPerBlock && pages.data.size() == kBlockSize) {
    const PageRef first = put_whole_block(*writer, pages.data, pages.digests);
    for (uint16_t i = 0; i < kPagesPerBlock; ++i) pages.places[i] = {first.pack, i};
    return;
  }
  for (size_t k = 0; k < fresh_count; ++k) {
    pages.places[fresh[k]] = append(*writer, pages.page(fresh[k]), pages.digests[fresh[k]]);
  }
  for (size_t k = 0; k < pages.unknown_count; ++k) pages.places[pages.unknown[k]] = pages.places[same_as[k]];
}

std::pair<PackBuilder::Writer*, std::unique_lock<std::mutex>> PackBuilder::take_writer() {
  const std::thread::id self = std::this_thread::get_id();
  std::unique_lock list_lock(writers_mutex_);
  Writer* fallback = nullptr;
  for (Writer& w : writers_) {
    if (w.owner != self) continue;
    list_lock.unlock();
    std::unique_lock lock(w.mutex);
    return {&w, std::move(lock)};
  }
  for (Writer& w : writers_) {
    // With few writers, a new thread gets one of its own; later ones share.
    if (writers_.size() < kMaxWriters) break;
    fallback = &w;
    if (std::unique_lock lock(w.mutex, std::try_to_lock); lock) {
      w.owner = self;
      return {&w, std::move(lock)};
    }
  }
  if (fallback == nullptr) {
    fallback = &writers_.emplace_back();
    fallback->owner = self;
  }
  list_lock.unlock();
  std::unique_lock lock(fallback->mutex);
  return {fallback, std::move(lock)};
}

void PackBuilder::open_pack(Writer& w) {
  w.small = small_bytes_.fetch_add(kBlockSize) + kBlockSize <= kSmallBytes;
  if (w.small) {
    w.pack = core_->next_small_pack++;
  } else {
    small_bytes_ -= kBlockSize;
    if (!w.file) w.file = std::make_unique<PackFile>(*core_);
    w.pack = w.file->take_id();
  }
  pins_.add(w.pack);
  w.count = 0;
  w.pages.clear();
  w.row = std::make_shared<PackRow>();
  w.row->digests.resize(kPagesPerBlock);
  const std::unique_lock lock(pending_mutex_);
  pending_[w.pack].row = w.row;
}

PageRef PackBuilder::append(Writer& w, std::span<const std::byte> page, const Digest& digest) {
  if (w.pack == kZeroPack) open_pack(w);
  const PageRef place{w.pack, w.count++};
  if (w.pages.capacity() < kBlockSize) w.pages.reserve(kBlockSize);
  w.pages.append(as_slice(page).data(), page.size());
  if (page.size() < kPageSize) {
    w.pages.append(kPageSize - page.size(), '\0');
    w.row->short_pages.push_back({static_cast<uint8_t>(place.slot), static_cast<uint16_t>(page.size())});
  }
  w.row->digests[place.slot] = digest;
  own_.insert(digest, place);
  if (w.count == kPagesPerBlock) close_pack(w);
  return place;
}

// A block of new pages becomes a pack as it is, without a copy.
PageRef PackBuilder::put_whole_block(Writer& w, std::span<const std::byte> data, std::span<const Digest> digests) {
  if (w.pack != kZeroPack) close_pack(w);
  open_pack(w);
  const PageRef place{w.pack, 0};
  w.count = kPagesPerBlock;
  std::copy(digests.begin(), digests.end(), w.row->digests.begin());
  for (uint16_t i = 0; i < kPagesPerBlock; ++i) own_.insert(digests[i], {w.pack, i});
  if (w.small) {
    w.pages.assign(as_slice(data).data(), data.size());
    close_pack(w);
  } else {
    const uint64_t pack = std::exchange(w.pack, kZeroPack);
    add_to_file(w, pack, data, *w.row);
  }
  return place;
}

void PackBuilder::close_pack(Writer& w) {
  const uint64_t pack = std::exchange(w.pack, kZeroPack);
  if (!w.small) {
    PackRow row = *w.row;
    row.digests.resize(w.count);
    add_to_file(w, pack, std::as_bytes(std::span(w.pages)), std::move(row));
    return;
  }
  small_bytes_ -= kBlockSize - w.pages.size();
  w.pages.shrink_to_fit();
  auto pages = std::make_shared<const std::string>(std::move(w.pages));
  w.pages = {};
  const std::unique_lock lock(pending_mutex_);
  pending_[pack].pages = std::move(pages);
}

void PackBuilder::add_to_file(Writer& w, uint64_t pack, std::span<const std::byte> pages, PackRow row) {
  w.file->put(pack, pages, std::move(row));
  if (w.file->full()) hand_over_file(w);
}

}  // namespace ckpt
