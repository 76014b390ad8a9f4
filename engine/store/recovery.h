// A full disk, overcome. RocksDB 7.8 stops on the first write that fails and goes on when DB::Resume() says so. It counts
// wrongly there: a flush of a memtable that was handed to its thread, but finds the database stopped when that thread
// begins, stays in the queue without ever being handed out again (DBImpl::BackgroundFlush, MaybeScheduleFlushOrCompaction),
// and Resume() then waits for it for ever. So no flush may be on its way when the database stops, also where it stops again
// in the middle of Resume(), and nobody may ask for a flush during it. Resume() is tried only where it has room.
#pragma once

#include <rocksdb/db.h>
#include <rocksdb/listener.h>

#include <mutex>
#include <string>
#include <vector>

namespace ckpt {

/// Thread-safe.
class Recovery : public rocksdb::EventListener {
 public:
  explicit Recovery(std::string dir) : dir_(std::move(dir)) {}
  /// The database and its column families, borrowed; null before they are closed.
  void watch(rocksdb::DB* db, std::vector<rocksdb::ColumnFamilyHandle*> families);
  /// Makes a stopped database go on, where the disk has room for all that is in memory only. False: it stays stopped.
  /// Not while others write, flush or ingest.
  /// Waits for a flush that failed, which takes a second.
  bool resume();

  void OnBackgroundError(rocksdb::BackgroundErrorReason reason, rocksdb::Status* error) override;
  /// RocksDB would wait for room in a thread of its own, and refuse to be resumed meanwhile.
  void OnErrorRecoveryBegin(rocksdb::BackgroundErrorReason, rocksdb::Status, bool* automatic) override {
    *automatic = false;
  }

 private:
  bool flush_is_on_its_way();
  bool any_family_has(const std::string& property);
  bool has_room();
  uint64_t log_number();
  bool change_log();

  const std::string dir_;
  std::mutex mutex_;
  rocksdb::DB* db_ = nullptr;
  std::vector<rocksdb::ColumnFamilyHandle*> families_;
  std::atomic<bool> flush_failed_ = false;
};

}  // namespace ckpt
