#include "engine/store/store_core.h"

#include <rocksdb/convenience.h>

#include <algorithm>
#include <filesystem>

#include "engine/base/record.h"
#include "engine/store/stored_image.h"

namespace ckpt {

namespace {

std::unique_ptr<rocksdb::Iterator> iterate(const Database& db, rocksdb::ColumnFamilyHandle* family) {
  rocksdb::ReadOptions options;
  options.readahead_size = 2 << 20;
  options.fill_cache = false;
  return std::unique_ptr<rocksdb::Iterator>(db->NewIterator(options, family));
}

}  // namespace

std::optional<uint64_t> read_number(const Database& db, const std::string& key) {
  std::string value;
  const rocksdb::Status status = db->Get(rocksdb::ReadOptions(), db.meta, key, &value);
  if (status.IsNotFound()) return std::nullopt;
  check_status(status, "{}: \"{}\" cannot be read", db.dir(), key);
  const std::optional<uint64_t> number = parse_u64(value);
  if (!number) fail(EIO, "{}: \"{}\" is no number", db.dir(), key);
  return number;
}

StoreCore::StoreCore(const std::string& dir) : db(dir), rows(db) {
  read_meta();
  std::error_code ignored;
  std::filesystem::remove_all(staging(), ignored);
  std::filesystem::create_directory(staging(), ignored);
  drop_orphans();
  read_names();
  read_index();
}

void StoreCore::read_meta() {
  const std::optional<uint64_t> version = read_number(db, "version");
  if (!version) {
    rocksdb::WriteBatch batch;
    batch.Put(db.meta, "version", std::to_string(kStoreVersion));
    db.write(batch, true, db.dir());
  } else if (*version > kStoreVersion) {
    fail(EPROTONOSUPPORT, "{}: a store of version {}, this ckptfs knows {}", db.dir(), *version, kStoreVersion);
  }
  next_image = read_number(db, "next image").value_or(1);
  note_unfinished();
  garbage = read_number(db, "garbage").has_value() ? 1 : 0;
}

// Builders that had ingested packs when the last session ended without their commit.
void StoreCore::note_unfinished() {
  static constexpr std::string_view prefix = "building/";
  rocksdb::WriteBatch batch;
  const auto it = iterate(db, db.meta);
  for (it->Seek(rocksdb::Slice(prefix.data(), prefix.size())); it->Valid(); it->Next()) {
    if (!it->key().ToStringView().starts_with(prefix)) break;
    batch.Delete(db.meta, it->key());
  }
  check_status(it->status(), "{}", db.dir());
  if (batch.Count() == 0) return;
  note_garbage(batch);
  db.write(batch, true, db.dir());
}

// A crash between the ingestion of a file of packs and the writing of their digests leaves packs without a row. The
// note that was written before tells where.
void StoreCore::drop_orphans() {
  static constexpr std::string_view prefix = "pending/";
  rocksdb::WriteBatch batch;
  const auto it = iterate(db, db.meta);
  for (it->Seek(rocksdb::Slice(prefix.data(), prefix.size())); it->Valid(); it->Next()) {
    const std::string_view key = it->key().ToStringView();
    if (!key.starts_with(prefix)) break;
    const std::optional<uint64_t> first = parse_u64(key.substr(prefix.size()));
    const std::optional<uint64_t> count = parse_u64(it->value().ToStringView());
    if (!first || !count) fail(EIO, "{}: \"{}\" is damaged", db.dir(), escape(key));
    const std::string begin = pack_key(*first), end = pack_key(*first + *count);
    const rocksdb::Slice first_key(begin), last_key(end);
    check_status(rocksdb::DeleteFilesInRange(&db.db(), db.packs, &first_key, &last_key, false), "{}", db.dir());
    batch.DeleteRange(db.packs, begin, end);
    batch.Delete(db.meta, it->key());
    next_pack = std::max(next_pack.load(), *first + *count);
  }
  check_status(it->status(), "{}", db.dir());
  if (batch.Count() != 0) db.write(batch, true, db.dir());
}

void StoreCore::read_names() {
  const auto it = iterate(db, db.images);
  for (it->SeekToFirst(); it->Valid(); it->Next()) {
    const std::string name = it->key().ToString();
    names.emplace(name, decode_info(it->value().ToStringView(), name));
  }
  check_status(it->status(), "{}: the names of the images cannot be read", db.dir());
}

void StoreCore::read_index() {
  const auto it = iterate(db, db.index);
  for (it->SeekToFirst(); it->Valid(); it->Next()) {
    const uint64_t pack = parse_id(it->key().ToStringView());
    publish(pack, decode_row(it->value().ToStringView(), fmt::format("{}: pack {}", db.dir(), pack)));
    std::atomic<uint64_t>& next = pack < kSmallPacks ? next_pack : next_small_pack;
    next = std::max(next.load(), pack + 1);
  }
  check_status(it->status(), "{}: the digests of the packs cannot be read", db.dir());
}

void StoreCore::publish(uint64_t pack, const PackRow& row) {
  for (size_t slot = 0; slot < row.digests.size(); ++slot) {
    if (row.digests[slot] != Digest{}) index.insert(row.digests[slot], {pack, static_cast<uint16_t>(slot)});
  }
  ++packs;
}

void StoreCore::compact_packs() {
  uint64_t files = 0;
  if (!db->GetIntProperty(db.packs, rocksdb::DB::Properties::kTotalSstFilesSize, &files)) return;
  if (files <= index.size() * kPageSize * 5 / 4) return;
  db.flush();  // a compaction asks for it itself otherwise, perhaps in the middle of a resume (recovery.h)
  rocksdb::CompactRangeOptions options;
  options.exclusive_manual_compaction = false;
  options.canceled = &stop_compaction;
  const rocksdb::Status status = db->CompactRange(options, db.packs, nullptr, nullptr);
  if (!stop_compaction) check_status(status, "{}: compaction of the packs", db.dir());
}

void StoreCore::note_garbage(const std::string& instead) noexcept {
  try {
    rocksdb::WriteBatch batch;
    note_garbage(batch);
    batch.Delete(db.meta, instead);
    db.write(batch, false, db.dir());
  } catch (const std::exception&) {
    // The row that stays says the same at the next start.
  }
  wake_collector();
}

void StoreCore::wake_collector() {
  ++garbage;
  const std::lock_guard lock(collector_mutex);
  collector_wanted = true;
  collector_wakes.notify_all();
}

void StoreCore::wake_flusher() {
  const std::lock_guard lock(collector_mutex);
  unflushed = true;
  collector_wakes.notify_all();
}

void StoreCore::add_builder(const Pins* pins) {
  const std::lock_guard lock(registry_mutex);
  builders.insert(pins);
}

void StoreCore::remove_builder(const Pins* pins) {
  {
    const std::lock_guard lock(registry_mutex);
    builders.erase(pins);
    // What it committed may have come too late for the collection's view of the images.
    if (collecting) pins->add_to(retained);
  }
  let_go();
}

void StoreCore::let_go() noexcept {
  if (garbage_in_use.exchange(false)) wake_collector();
}

void StoreCore::add_open_image(const std::shared_ptr<const RocksImage>& image) {
  const std::lock_guard lock(registry_mutex);
  std::erase_if(open_images, [](const auto& weak) { return weak.expired(); });
  open_images.push_back(image);
}

}  // namespace ckpt
