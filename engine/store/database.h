// The RocksDB database of a store: options, column families, and the one place that turns its status into an Error.
#pragma once

#include <rocksdb/db.h>

#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>

#include "engine/base/error.h"
#include "engine/store/format.h"

namespace ckpt {

class Recovery;

/// errno for a status that is not ok.
int errno_of(const rocksdb::Status& status);

/// What is wrong: of a disk without room no more than that, since RocksDB's text names the file once more.
std::string text_of(const rocksdb::Status& status);

/// Throws Error("OBJECT: text of the status") unless it is ok.
template <typename... Args>
void check_status(const rocksdb::Status& status, LocatedFormat<std::type_identity_t<Args>...> format, Args&&... args) {
  if (status.ok()) return;
  throw Error(errno_of(status), fmt::format(format.format, std::forward<Args>(args)...) + ": " + text_of(status),
              format.where);
}

/// Thread-safe, as RocksDB is.
class Database {
 public:
  /// Throws Error as open_rocksdb_store.
  explicit Database(const std::string& dir);
  ~Database();
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;

  rocksdb::DB* operator->() const { return db_.get(); }
  rocksdb::DB& db() const { return *db_; }
  const std::string& dir() const { return dir_; }
  /// Options for a table file of packs that is written outside the database, then ingested.
  rocksdb::Options pack_file_options() const;

  rocksdb::ColumnFamilyHandle* meta = nullptr;
  rocksdb::ColumnFamilyHandle* packs = nullptr;
  rocksdb::ColumnFamilyHandle* index = nullptr;
  rocksdb::ColumnFamilyHandle* images = nullptr;
  rocksdb::ColumnFamilyHandle* files = nullptr;

  /// Applies a batch; with `sync` it is durable, and all earlier ones with it.
  void write(rocksdb::WriteBatch& batch, bool sync, const std::string& what);
  /// Moves what is in the log into table files.
  void flush();
  /// Takes over table files of packs, which then are gone from where they were. Durable.
  void ingest_packs(const std::vector<std::string>& paths);
  /// The pinned value of a pack. Throws Error(EIO) where it is missing or damaged.
  void get_pack(uint64_t pack, rocksdb::PinnableSlice& out) const;
  /// The same, kept until another pack is asked for: a small image's segments, which are read one by one, share a pack, and
  /// getting it from RocksDB's log may mean to copy all of it. What it held stays good after a collection, which leaves some of the same pages in their slots.
  std::shared_ptr<const rocksdb::PinnableSlice> recent_pack(uint64_t pack) const;

 private:
  std::string dir_;
  bool resume();
  void write_once(rocksdb::WriteBatch& batch, bool sync, const std::string& what);
  void copy_packs(const std::string& path);

  std::shared_ptr<Recovery> recovery_;
  std::unique_ptr<rocksdb::DB> db_;
  std::shared_mutex resume_mutex_;
  bool resumed_ = false;

  mutable std::mutex recent_mutex_;   ///< guards the two below
  mutable uint64_t recent_ = 0;       ///< meaningful where recent_value_ is
  mutable std::shared_ptr<const rocksdb::PinnableSlice> recent_value_;
};

inline std::span<const std::byte> as_span(const rocksdb::Slice& s) {
  return {reinterpret_cast<const std::byte*>(s.data()), s.size()};
}
inline rocksdb::Slice as_slice(std::span<const std::byte> s) {
  return {reinterpret_cast<const char*>(s.data()), s.size()};
}

}  // namespace ckpt
