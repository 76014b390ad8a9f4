#include "engine/store/pack_builder.h"

#include <algorithm>
#include <bitset>
#include <filesystem>

namespace ckpt {

namespace {

constexpr size_t kSmallBytes = 8 << 20;        // new pages that go through the log
constexpr uint64_t kFileBytes = 256 << 20;
constexpr uint64_t kFilePacks = 512;           // ids reserved for a file
constexpr size_t kMaxWriters = 8;

}  // namespace

PackBuilder::File::File() = default;

// The pages of one block, and what is known of each.
struct PackBuilder::Pages {
  explicit Pages(std::span<const std::byte> d) : data(d), count(page_count(d.size())) {}

  std::span<const std::byte> page(size_t i) const {
    const size_t at = i * kPageSize;
    return data.subspan(at, std::min(kPageSize, data.size() - at));
  }
  /// Pages from byte `at` on lie in a pack. False, with nothing done, where their digests are not to be had.
  bool refer(size_t at, size_t n, PageRef first, RowCache& rows);
  /// Of those whose place is not known.
  void digest_all();
  Block block() const;

  std::span<const std::byte> data;
  size_t count;
  std::array<Digest, kPagesPerBlock> digests;
  std::array<PageRef, kPagesPerBlock> places;      // kZeroPack for a page of zeros
  std::bitset<kPagesPerBlock> referred;            // place and digest were known from the start
  std::array<uint16_t, kPagesPerBlock> unknown;    // pages whose place is not known yet
  size_t unknown_count = 0;
};

void PackBuilder::Pages::digest_all() {
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

bool PackBuilder::Pages::refer(size_t at, size_t n, PageRef first, RowCache& rows) {
  std::shared_ptr<const PackRow> row;
  if (first.pack != kZeroPack) {
    try {
      row = rows.get(first.pack);
    } catch (const Error&) {
      return false;   // as in find_known()
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

Block PackBuilder::Pages::block() const {
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

PackBuilder::PackBuilder(std::shared_ptr<StoreCore> core) : core_(std::move(core)) { core_->add_builder(&pins_); }

PackBuilder::~PackBuilder() {
  if (handed_over_.valid()) handed_over_.wait();
  std::error_code ignored;
  for (Writer& w : writers_) {
    if (!w.file) continue;
    w.file->writer.reset();
    std::filesystem::remove(w.file->path, ignored);
  }
  if (!note_.empty() && !committed_) core_->note_garbage(note_);
  core_->remove_builder(&pins_);
}

template <typename F>
auto PackBuilder::guarded(F&& work) {
  if (broken_ != 0) fail(broken_, "the image lost pages when an earlier write failed");
  try {
    return work();
  } catch (const Error& e) {
    broken_ = e.err();
    throw;
  } catch (...) {
    broken_ = EIO;
    throw;
  }
}

Block PackBuilder::store(std::span<const std::byte> data) {
  if (data.empty() || data.size() > kBlockSize) fail(EINVAL, "a block has 1 to {} bytes, not {}", kBlockSize, data.size());
  Pages pages(data);
  return store(pages);
}

Block PackBuilder::store(std::span<std::byte> data, const RocksImage& base, std::span<const SamePages> same) {
  if (data.empty() || data.size() > kBlockSize) fail(EINVAL, "a block has 1 to {} bytes, not {}", kBlockSize, data.size());
  Pages pages(data);
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
void PackBuilder::refer_to(Pages& pages, std::span<std::byte> data, const RocksImage& base, const SamePages& same) {
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

Block PackBuilder::store(Pages& pages) {
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

void PackBuilder::find_known(Pages& pages) {
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
  size_t left = 0;
  for (size_t k = 0; k < pages.unknown_count; ++k) {
    const uint16_t i = pages.unknown[k];
    const Digest& digest = pages.digests[i];
    const PageRef next{last.pack, static_cast<uint16_t>(last.slot + 1)};
    bool found = last.pack != kZeroPack && next.slot < kPagesPerBlock && matches(next, digest);
    if (!found) {
      DigestIndex::Candidates candidates;
      const size_t count = core_->index.find(digest, candidates);
      for (size_t c = 0; c < count && !found; ++c) found = matches(candidates[c], digest);
    }
    if (found) {
      pages.places[i] = last;
    } else {
      pages.unknown[left++] = i;
    }
  }
  pages.unknown_count = left;
}

void PackBuilder::find_pending(Pages& pages) {
  size_t left = 0;
  const std::shared_lock lock(pending_mutex_);
  for (size_t k = 0; k < pages.unknown_count; ++k) {
    const uint16_t i = pages.unknown[k];
    DigestIndex::Candidates candidates;
    const size_t count = own_.find(pages.digests[i], candidates);
    bool found = false;
    for (size_t c = 0; c < count && !found; ++c) {
      const auto pack = pending_.find(candidates[c].pack);
      found = pack != pending_.end() && pack->second.row->digests[candidates[c].slot] == pages.digests[i];
      if (found) pages.places[i] = candidates[c];
    }
    if (!found) pages.unknown[left++] = i;
  }
  pages.unknown_count = left;
}

// Packs are filled in the order in which pages come, so that neighbours in memory are neighbours on disk.
void PackBuilder::write_new(Pages& pages) {
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
    if (!w.file) {
      File& file = w.file.emplace();
      file.path = fmt::format("{}/{}.sst", core_->staging(), core_->next_file++);
      file.first = file.next = core_->next_pack.fetch_add(kFilePacks);
      const rocksdb::Options options = core_->db.pack_file_options();
      file.writer = std::make_unique<rocksdb::SstFileWriter>(rocksdb::EnvOptions(options), options, core_->db.packs,
                                                             /*invalidate_page_cache=*/false);
      check_status(file.writer->Open(file.path), "{}", file.path);
    }
    w.pack = w.file->next++;
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
  File& file = *w.file;
  check_status(file.writer->Put(pack_key(pack), as_slice(pages)), "{}", file.path);
  file.bytes += pages.size();
  file.packs.push_back({pack, std::move(row)});
  if (file.bytes + kBlockSize > kFileBytes || file.next == file.first + kFilePacks) hand_over_file(w);
}

void PackBuilder::take_file(Writer& w, std::vector<File>& taken) {
  if (w.pack != kZeroPack) close_pack(w);
  // Closing the pack may have filled the file, and then it is gone already.
  if (!w.file) return;
  taken.push_back(std::move(*w.file));
  w.file.reset();
}

// To be synced and ingested while the next one is filled: whoever writes may be reading from a process that waits.
void PackBuilder::hand_over_file(Writer& w) {
  const std::lock_guard lock(handed_over_mutex_);
  if (handed_over_.valid()) handed_over_.get();
  // Shared, so that it is still the writer's, which removes it at the end, where no thread can be had.
  const auto file = std::make_shared<std::optional<File>>();
  file->swap(w.file);
  try {
    handed_over_ = std::async(std::launch::async, [this, file] {
      std::vector<File> files;
      files.push_back(std::move(**file));
      ingest(std::move(files));
    });
  } catch (...) {
    file->swap(w.file);
    throw;
  }
}

void PackBuilder::wait_for_handed_over() {
  const std::lock_guard lock(handed_over_mutex_);
  if (handed_over_.valid()) handed_over_.get();
}

// Before a file is ingested it is noted durably that its packs have no rows yet: StoreCore::drop_orphans.
void PackBuilder::note_pending(const std::vector<File>& files) {
  rocksdb::WriteBatch batch;
  const std::lock_guard lock(note_mutex_);
  if (note_.empty()) {
    note_ = fmt::format("building/{}", core_->next_file++);
    batch.Put(core_->db.meta, note_, "");
  }
  for (const File& file : files) {
    batch.Put(core_->db.meta, fmt::format("pending/{}", file.first), std::to_string(kFilePacks));
  }
  core_->db.write(batch, true, core_->db.dir());
}

void PackBuilder::ingest(std::vector<File> files) {
  if (files.empty()) return;
  try {
    for (File& file : files) {
      check_status(file.writer->Finish(), "{}", file.path);
      file.writer.reset();
    }
    ingest_finished(files);
  } catch (...) {
    for (File& file : files) {
      file.writer.reset();
      std::error_code ignored;
      std::filesystem::remove(file.path, ignored);  // on a full disk its room would be missed
    }
    throw;
  }
}

void PackBuilder::ingest_finished(const std::vector<File>& files) {
  note_pending(files);
  std::vector<std::string> paths;
  rocksdb::WriteBatch rows;
  for (const File& file : files) {
    paths.push_back(file.path);
    for (const Finished& p : file.packs) {
      rows.Put(core_->db.index, pack_key(p.pack), encode_row(p.row.digests, p.row.short_pages));
    }
    rows.Delete(core_->db.meta, fmt::format("pending/{}", file.first));
  }
  core_->db.ingest_packs(paths);
  // Not synced: whoever commits after this syncs the log up to there, and these rows stand before.
  core_->db.write(rows, false, core_->db.dir());
  for (const File& file : files) {
    for (const Finished& p : file.packs) {
      core_->publish(p.pack, p.row);
      forget_pending(p);
    }
  }
}

void PackBuilder::forget_pending(const Finished& pack) {
  for (uint16_t slot = 0; slot < pack.row.digests.size(); ++slot) own_.erase(pack.row.digests[slot], {pack.pack, slot});
  const std::unique_lock lock(pending_mutex_);
  pending_.erase(pack.pack);
}

std::shared_ptr<const std::string> PackBuilder::pending_pages(uint64_t pack) {
  {
    const std::shared_lock lock(pending_mutex_);
    const auto it = pending_.find(pack);
    if (it == pending_.end()) return nullptr;
    if (it->second.pages) return it->second.pages;
  }
  // In the hands of a writer, or in its file.
  std::vector<Writer*> writers;
  {
    const std::lock_guard lock(writers_mutex_);
    for (Writer& w : writers_) writers.push_back(&w);
  }
  for (Writer* w : writers) {
    const std::lock_guard lock(w->mutex);
    guarded([&] {
      if (w->pack == pack && w->small) close_pack(*w);
      if (!w->file || pack < w->file->first || pack >= w->file->next) return;
      std::vector<File> taken;
      take_file(*w, taken);
      ingest(std::move(taken));
    });
  }
  guarded([&] { wait_for_handed_over(); });
  const std::shared_lock lock(pending_mutex_);
  const auto it = pending_.find(pack);
  return it == pending_.end() ? nullptr : it->second.pages;
}

PackAccess PackBuilder::access() {
  return [this, reader = std::make_shared<PackReader>(core_->db),
          kept = std::shared_ptr<const std::string>()](const Extent& e) mutable {
    auto pages = pending_pages(e.pack);
    if (!pages) return (*reader)(e);
    kept = std::move(pages);
    return PackView(std::as_bytes(std::span(*kept)), e.pack).pages(e.slot, e.pages);
  };
}

void PackBuilder::prepare_commit(rocksdb::WriteBatch& batch) {
  guarded([&] {
    std::vector<File> taken;
    for (Writer& w : writers_) {
      const std::lock_guard lock(w.mutex);
      take_file(w, taken);
    }
    wait_for_handed_over();
    ingest(std::move(taken));
  });
  for (const auto& [pack, pending] : pending_) {
    PackRow& row = *pending.row;
    row.digests.resize(pending.pages->size() / kPageSize);
    batch.Put(core_->db.packs, pack_key(pack), *pending.pages);
    batch.Put(core_->db.index, pack_key(pack), encode_row(row.digests, row.short_pages));
  }
  if (!note_.empty()) batch.Delete(core_->db.meta, note_);
}

void PackBuilder::committed() {
  committed_ = true;
  for (const auto& [pack, pending] : pending_) core_->publish(pack, *pending.row);
  pending_.clear();
}

}  // namespace ckpt
