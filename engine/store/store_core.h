// What the parts of the store share: the database, the index in memory, the names, and who refers to which packs.
// Kept alive by every open image and builder.
//
// Lock order: commit_mutex, names_mutex, reference_mutex, registry_mutex; each may be left out.
#pragma once

#include <atomic>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <shared_mutex>

#include "engine/store/database.h"
#include "engine/store/digest_index.h"
#include "engine/store/pack_set.h"
#include "engine/store/row_cache.h"

namespace ckpt {

class RocksImage;

/// The packs that a builder refers to or has written: whatever happens, they stay until it is gone. Thread-safe.
class Pins {
 public:
  void add(uint64_t pack) {
    const std::lock_guard lock(mutex_);
    packs_.add(pack);
  }
  bool has(uint64_t pack) const {
    const std::lock_guard lock(mutex_);
    return packs_.has(pack);
  }
  void add_to(PackSet& set) const {
    const std::lock_guard lock(mutex_);
    set.add_all(packs_);
  }

 private:
  mutable std::mutex mutex_;
  PackSet packs_;
};

struct StoreCore : std::enable_shared_from_this<StoreCore> {
  /// Opens the store and builds the index. Throws Error as open_rocksdb_store.
  explicit StoreCore(const std::string& dir);

  Database db;
  DigestIndex index;
  RowCache rows;
  std::atomic<uint64_t> packs = 0;            ///< rows in the index column family
  std::atomic<uint64_t> next_pack = 1;        ///< below kSmallPacks
  std::atomic<uint64_t> next_small_pack = kSmallPacks;
  std::atomic<uint64_t> next_file = 1;        ///< names table files that are being written

  /// Held while names change in the database, so one after the other.
  std::mutex commit_mutex;
  uint64_t next_image = 1;                    ///< under commit_mutex

  /// Names as they are in the database. Shared while an image's rows are read, so that it cannot vanish half-read.
  mutable std::shared_mutex names_mutex;
  std::map<std::string, ImageInfo, std::less<>> names;

  /// Shared while a builder looks for a page and pins its pack; exclusive while a collection takes pages out of the
  /// index. So a page is either found and pinned, or gone from the index before its pack is touched.
  std::shared_mutex reference_mutex;

  std::mutex registry_mutex;
  std::set<const Pins*> builders;
  std::vector<std::weak_ptr<const RocksImage>> open_images;
  bool collecting = false;
  PackSet retained;                           ///< packs of builders that ended during the collection
  std::mutex collection_mutex;                ///< one collection, or check, at a time
  std::atomic<uint64_t> garbage = 0;          ///< grows with every event that may leave garbage
  std::atomic<bool> garbage_in_use = false;   ///< a collection has spared what an open image or a builder refers to

  void add_builder(const Pins* pins);
  void remove_builder(const Pins* pins);
  void add_open_image(const std::shared_ptr<const RocksImage>& image);
  /// An open image or a builder is let go: what was spared for it may be collected now. Never throws.
  void let_go() noexcept;

  /// Remembers, over a restart too, that a collection has something to do, and wakes the background one. The row
  /// `instead` goes. Never throws.
  void note_garbage(const std::string& instead) noexcept;
  /// Adds the note to a batch that leaves garbage.
  void note_garbage(rocksdb::WriteBatch& batch) { batch.Put(db.meta, "garbage", "1"); }
  void wake_collector();
  /// Has the log emptied soon, when nothing else is going on: table files are checked page by page, the log is not.
  void wake_flusher();
  std::mutex collector_mutex;                 ///< guards the three below
  std::condition_variable collector_wakes;
  bool collector_wanted = false, collector_stops = false, unflushed = false;

  /// Directory of table files that are being written.
  std::string staging() const { return db.dir() + "/staging"; }
  /// Rewrites the table files of the packs where much of them is dead. Ends early when stop_compaction is set.
  void compact_packs();
  std::atomic<bool> stop_compaction = false;
  /// Puts a pack's pages into the index.
  void publish(uint64_t pack, const PackRow& row);

 private:
  void read_meta();
  void drop_orphans();
  void note_unfinished();
  void read_names();
  void read_index();
};

/// "next image", "version"...: numbers in the default column family.
std::optional<uint64_t> read_number(const Database& db, const std::string& key);

}  // namespace ckpt
