// Mark and sweep, beside everything else.
//
// Mark: every page that an image (as of one snapshot of the database) or an open image refers to. Packs that a living
// builder has touched are left out altogether (Pins), also when it ends meanwhile. Sweep: a pack without a marked page
// goes; one with less than half of them is written again without the others, under its old number and with every page
// in its old slot, so that no reference changes.
//
// A page that nobody refers to may be wanted again at any moment: a builder finds it by its digest. So under the
// exclusive lock (reference_mutex) a pack is either seen to be pinned and left alone, or changed in the database, in
// the index and in the cache of rows at once.
#include "engine/store/collector.h"

#include <rocksdb/convenience.h>

#include <bitset>

#include "engine/store/stored_image.h"

namespace ckpt {

namespace {

using Slots = std::bitset<kPagesPerBlock>;

constexpr size_t kPacksAStep = 16;

struct Candidate {
  uint64_t pack;
  PackRow row;
  Slots stored, live;
  std::string pages, new_row;   // for a pack that is rewritten
};

class Collection {
 public:
  Collection(StoreCore& core, bool dry_run, const Progress& progress)
      : core_(core), dry_run_(dry_run), progress_(progress) {}
  ~Collection();
  GcResult run();

 private:
  void begin();
  void mark(const FileRecord& file);
  void mark_all();
  void sweep();
  void consider(uint64_t pack, PackRow row);
  void step();
  bool rewrite(Candidate& c);
  void apply(std::vector<Candidate>& free);
  void reclaim();
  void report(uint64_t done, uint64_t total) {
    if (progress_ && !progress_(done, total)) fail(EINTR, "the collection was interrupted");
  }

  StoreCore& core_;
  const bool dry_run_;
  const Progress& progress_;
  uint64_t garbage_seen_ = 0;
  const rocksdb::Snapshot* snapshot_ = nullptr;
  std::vector<std::shared_ptr<const RocksImage>> open_;
  std::unordered_map<uint64_t, Slots> live_;
  std::vector<Candidate> candidates_;
  std::vector<uint64_t> deleted_;
  GcResult result_;
};

Collection::~Collection() {
  if (snapshot_ != nullptr) core_.db->ReleaseSnapshot(snapshot_);
  const std::lock_guard lock(core_.registry_mutex);
  core_.collecting = false;
  core_.retained.clear();
}

GcResult Collection::run() {
  begin();
  mark_all();
  sweep();
  if (!dry_run_) reclaim();
  return result_;
}

void Collection::begin() {
  // No commit or deletion is half done while the view is taken; from then on the pins of ending builders are kept.
  const std::lock_guard commit_lock(core_.commit_mutex);
  std::set<uint64_t> named;
  for (const auto& [name, info] : core_.names) named.insert(info.id);   // only changed under commit_mutex
  const std::lock_guard lock(core_.registry_mutex);
  garbage_seen_ = core_.garbage;
  core_.collecting = true;
  snapshot_ = core_.db->GetSnapshot();
  for (const auto& weak : core_.open_images) {
    auto image = weak.lock();
    if (!image) continue;
    if (!dry_run_ && !named.contains(image->info().id)) core_.garbage_in_use = true;
    open_.push_back(std::move(image));
  }
}

void Collection::mark(const FileRecord& file) {
  for (const Block& block : file.blocks) {
    for (const Extent& e : block.extents) {
      if (e.pack == kZeroPack) continue;
      Slots& slots = live_[e.pack];
      for (size_t i = 0; i < e.pages; ++i) slots.set(e.slot + i);
    }
  }
}

void Collection::mark_all() {
  rocksdb::ReadOptions options;
  options.snapshot = snapshot_;
  options.fill_cache = false;
  const std::unique_ptr<rocksdb::Iterator> it(core_.db->NewIterator(options, core_.db.files));
  for (it->SeekToFirst(); it->Valid(); it->Next()) {
    // A row that cannot be read ends the collection: who knows what it refers to.
    mark(decode_file(it->value().ToStringView(), fmt::format("image {}", parse_id(it->key().ToStringView()))));
  }
  check_status(it->status(), "{}: the files of the images cannot be read", core_.db.dir());
  for (const auto& image : open_) {
    for (const auto& file : image->files()) mark(*file);
  }
  open_.clear();
}

void Collection::sweep() {
  rocksdb::ReadOptions options;
  options.snapshot = snapshot_;
  options.fill_cache = false;
  const uint64_t total = core_.packs * kBlockSize;
  uint64_t done = 0;
  const std::unique_ptr<rocksdb::Iterator> it(core_.db->NewIterator(options, core_.db.index));
  for (it->SeekToFirst(); it->Valid(); it->Next()) {
    const uint64_t pack = parse_id(it->key().ToStringView());
    consider(pack, decode_row(it->value().ToStringView(), fmt::format("pack {}", pack)));
    report(std::min(done += kBlockSize, total), total);
  }
  check_status(it->status(), "{}: the digests of the packs cannot be read", core_.db.dir());
  step();
}

void Collection::consider(uint64_t pack, PackRow row) {
  Candidate c{pack, std::move(row), {}, {}, {}, {}};
  for (size_t slot = 0; slot < c.row.digests.size(); ++slot) c.stored[slot] = c.row.digests[slot] != Digest{};
  if (const auto it = live_.find(pack); it != live_.end()) c.live = it->second & c.stored;
  if (c.live.count() * 2 >= c.stored.count()) return;
  candidates_.push_back(std::move(c));
  if (candidates_.size() == kPacksAStep) step();
}

// The pack without its dead pages. False where it cannot be read: `check` reports that.
bool Collection::rewrite(Candidate& c) {
  if (c.live.none() || dry_run_) return true;
  try {
    rocksdb::PinnableSlice value;
    core_.db.get_pack(c.pack, value);
    const PackView old(as_span(value), c.pack);
    c.pages.assign(kPagesPerBlock / 8, '\0');
    std::vector<Digest> digests(c.row.digests.size());
    std::vector<PackRow::ShortPage> short_pages;
    for (uint16_t slot = 0; slot < digests.size(); ++slot) {
      if (!c.live[slot]) continue;
      c.pages[slot / 8] = static_cast<char>(c.pages[slot / 8] | 1 << (slot % 8));
      digests[slot] = c.row.digests[slot];
    }
    for (uint16_t slot = 0; slot < digests.size(); ++slot) {
      if (c.live[slot]) c.pages.append(as_slice(old.pages(slot, 1)).data(), kPageSize);
    }
    for (const PackRow::ShortPage& page : c.row.short_pages) {
      if (c.live[page.slot]) short_pages.push_back(page);
    }
    c.new_row = encode_row(digests, short_pages);
    return true;
  } catch (const Error&) {
    return false;
  }
}

void Collection::step() {
  std::vector<Candidate> free;
  for (Candidate& c : candidates_) {
    if (rewrite(c)) free.push_back(std::move(c));
  }
  candidates_.clear();
  const std::unique_lock reference_lock(core_.reference_mutex);
  {
    const std::lock_guard lock(core_.registry_mutex);
    const size_t spared = std::erase_if(free, [&](const Candidate& c) {
      if (core_.retained.has(c.pack)) return true;
      return std::any_of(core_.builders.begin(), core_.builders.end(),
                         [&](const Pins* pins) { return pins->has(c.pack); });
    });
    if (spared != 0 && !dry_run_) core_.garbage_in_use = true;
  }
  if (!dry_run_) apply(free);
  for (const Candidate& c : free) {
    ++(c.live.none() ? result_.packs_deleted : result_.packs_rewritten);
    result_.pages_freed += (c.stored & ~c.live).count();
  }
}

void Collection::apply(std::vector<Candidate>& free) {
  rocksdb::WriteBatch batch;
  for (const Candidate& c : free) {
    const std::string key = pack_key(c.pack);
    if (c.live.none()) {
      batch.Delete(core_.db.packs, key);
      batch.Delete(core_.db.index, key);
    } else {
      batch.Put(core_.db.packs, key, c.pages);
      batch.Put(core_.db.index, key, c.new_row);
    }
  }
  if (batch.Count() == 0) return;
  core_.db.write(batch, false, core_.db.dir());
  for (const Candidate& c : free) {
    for (uint16_t slot = 0; slot < c.row.digests.size(); ++slot) {
      if (c.stored[slot] && !c.live[slot]) core_.index.erase(c.row.digests[slot], {c.pack, slot});
    }
    core_.rows.erase(c.pack);
    if (!c.live.none()) continue;
    --core_.packs;
    deleted_.push_back(c.pack);
  }
}

// Gives the space back to the filesystem: whole table files at once, the rest by compaction once it is worth it.
void Collection::reclaim() {
  core_.db->ReleaseSnapshot(std::exchange(snapshot_, nullptr));
  if (result_.pages_freed != 0) {
    // No row may come back after a crash when its pack's file is gone.
    check_status(core_.db->SyncWAL(), "{}: sync", core_.db.dir());
    // Only runs without a gap: a number in between may be that of a pack that has been written meanwhile.
    for (size_t i = 0; i < deleted_.size();) {
      size_t end = i + 1;
      while (end < deleted_.size() && deleted_[end] == deleted_[end - 1] + 1) ++end;
      const std::string first = pack_key(deleted_[i]), last = pack_key(deleted_[end - 1]);
      const rocksdb::Slice first_key(first), last_key(last);
      check_status(rocksdb::DeleteFilesInRange(&core_.db.db(), core_.db.packs, &first_key, &last_key), "{}",
                   core_.db.dir());
      i = end;
    }
    core_.compact_packs();
  }
  const std::lock_guard lock(core_.registry_mutex);
  if (core_.garbage != garbage_seen_ || core_.garbage_in_use) return;   // more has come meanwhile, or is to come
  rocksdb::WriteBatch batch;
  batch.Delete(core_.db.meta, "garbage");
  core_.db.write(batch, false, core_.db.dir());
}

}  // namespace

GcResult collect_garbage(StoreCore& core, bool dry_run, const Progress& progress) {
  const std::lock_guard lock(core.collection_mutex);
  return Collection(core, dry_run, progress).run();
}

}  // namespace ckpt
