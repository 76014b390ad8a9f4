#include "engine/store/database.h"

#include <rocksdb/cache.h>
#include <rocksdb/sst_file_reader.h>
#include <rocksdb/table.h>
#include <sys/stat.h>

#include <filesystem>

#include "engine/store/flush_env.h"
#include "engine/store/info_log.h"
#include "engine/store/recovery.h"

namespace ckpt {

namespace {

constexpr size_t kCacheBytes = 128 << 20;
/// The kernel's page cache holds packs. Here they are few, so that each is read into memory that the processor's cache
/// still has: a resume of 1 GiB takes 0.82 of its time with packs in the large cache.
constexpr size_t kPackCacheBytes = 4 << 20;
constexpr uint64_t kPackFileBytes = 256 << 20;

rocksdb::ColumnFamilyOptions table_options(const std::shared_ptr<rocksdb::Cache>& cache, size_t block_size) {
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = cache;
  table.block_size = block_size;
  table.checksum = rocksdb::kXXH3;  // Debian's RocksDB computes CRC32C in software
  table.format_version = 5;
  rocksdb::ColumnFamilyOptions cf;
  cf.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  cf.compression = rocksdb::kNoCompression;
  cf.write_buffer_size = 16 << 20;
  cf.level_compaction_dynamic_level_bytes = true;
  return cf;
}

rocksdb::DBOptions database_options(const std::string& dir) {
  rocksdb::DBOptions db;
  // Compaction is in no hurry; a process that is being checkpointed may be.
  db.env->LowerThreadPoolCPUPriority(rocksdb::Env::Priority::LOW);
  db.create_if_missing = true;
  db.create_missing_column_families = true;
  db.info_log_level = rocksdb::WARN_LEVEL;
  db.info_log = open_info_log(dir);
  db.env = &FlushEnv::get();
  db.stats_dump_period_sec = 0;
  db.stats_persist_period_sec = 0;
  db.bytes_per_sync = 1 << 20;
  db.max_background_jobs = 2;
  db.db_write_buffer_size = 64 << 20;
  db.max_total_wal_size = 128 << 20;
  db.skip_stats_update_on_db_open = true;
  // A log that ends in the middle of a record is what a crash leaves; any other damage must not lose images silently.
  db.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  return db;
}

std::vector<rocksdb::ColumnFamilyDescriptor> column_families() {
  const auto cache = rocksdb::NewLRUCache(kCacheBytes);
  rocksdb::ColumnFamilyOptions meta = table_options(cache, 16 << 10);
  meta.compression = rocksdb::kLZ4Compression;
  rocksdb::ColumnFamilyOptions files = meta;
  files.bottommost_compression = rocksdb::kZSTD;
  const auto pack_cache = rocksdb::NewLRUCache(kPackCacheBytes, 0);
  rocksdb::ColumnFamilyOptions packs = table_options(pack_cache, 64 << 10);
  packs.target_file_size_base = kPackFileBytes;
  packs.write_buffer_size = 32 << 20;
  packs.max_write_buffer_number = 2;
  return {{rocksdb::kDefaultColumnFamilyName, meta},
          {"packs", packs},
          {"index", table_options(cache, 8 << 10)},
          {"images", meta},
          {"files", files}};
}

void make_directory(const std::string& dir) {
  std::error_code error;
  const std::filesystem::path parent = std::filesystem::path(dir).parent_path();
  if (!parent.empty()) std::filesystem::create_directories(parent, error);
  // Pages of other users' processes are in it.
  if (mkdir(dir.c_str(), 0700) != 0 && errno != EEXIST) fail_errno("{}: mkdir", dir);
  if (!std::filesystem::is_directory(dir, error)) fail(ENOTDIR, "{} is not a directory", dir);
  if (access(dir.c_str(), R_OK | W_OK | X_OK) != 0) fail_errno("{}", dir);
}

[[noreturn]] void fail_open(const rocksdb::Status& status, const std::string& dir) {
  const std::string text = status.ToString();
  if (status.IsIOError() && text.find("LOCK") != text.npos) {
    fail(EBUSY, "{}: another ckptfs has this store open", dir);
  }
  fail(errno_of(status), "{}: the store cannot be opened: {}", dir, text);
}

// A newer version may have column families that this one knows nothing of; without them RocksDB refuses to open, so
// its version is asked for first, without any lock or change.
void check_version(const std::string& dir) {
  std::vector<std::string> names;
  if (!rocksdb::DB::ListColumnFamilies(rocksdb::DBOptions(), dir, &names).ok()) return;  // new
  const auto known = column_families();
  for (const std::string& name : names) {
    const bool found = std::any_of(known.begin(), known.end(), [&](const auto& cf) { return cf.name == name; });
    if (!found) fail(EPROTONOSUPPORT, "{}: a store of a newer version (it has \"{}\")", dir, name);
  }
}

}  // namespace

int errno_of(const rocksdb::Status& status) {
  if (status.IsNoSpace()) return ENOSPC;
  if (status.IsNotFound()) return ENOENT;
  const std::string text = status.ToString();
  if (text.find("Disk quota exceeded") != text.npos) return EDQUOT;
  if (text.find("File too large") != text.npos) return EFBIG;
  return EIO;
}

std::string text_of(const rocksdb::Status& status) {
  const int err = errno_of(status);
  return err == ENOSPC || err == EDQUOT || err == EFBIG ? errno_text(err) : status.ToString();
}

Database::Database(const std::string& dir) : dir_(dir), recovery_(std::make_shared<Recovery>(dir)) {
  make_directory(dir);
  check_version(dir);
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  rocksdb::DB* db = nullptr;
  rocksdb::DBOptions options = database_options(dir);
  options.listeners.push_back(recovery_);
  const rocksdb::Status status = rocksdb::DB::Open(options, dir, column_families(), &handles, &db);
  if (!status.ok()) fail_open(status, dir);
  db_.reset(db);
  recovery_->watch(db_.get(), handles);
  meta = handles[0];
  packs = handles[1];
  index = handles[2];
  images = handles[3];
  files = handles[4];
}

void Database::flush() {
  const std::shared_lock lock(resume_mutex_);
  rocksdb::FlushOptions options;
  options.allow_write_stall = true;
  check_status(db_->Flush(options, {meta, packs, index, images, files}), "{}", dir_);
}

Database::~Database() {
  try {
    flush();
  } catch (const Error&) {
    // The log has everything.
  }
  recovery_->watch(nullptr, {});
  recent_value_.reset();
  for (rocksdb::ColumnFamilyHandle* handle : {meta, packs, index, images, files}) {
    if (handle != nullptr) db_->DestroyColumnFamilyHandle(handle);
  }
  db_->Close();
}

rocksdb::Options Database::pack_file_options() const {
  return rocksdb::Options(rocksdb::DBOptions(db_->GetDBOptions()),
                          rocksdb::ColumnFamilyOptions(db_->GetOptions(packs)));
}

void Database::write(rocksdb::WriteBatch& batch, bool sync, const std::string& what) {
  rocksdb::WriteOptions options;
  options.sync = sync;
  const auto attempt = [&] {
    const std::shared_lock lock(resume_mutex_);
    return db_->Write(options, &batch);
  };
  rocksdb::Status status = attempt();
  // After a failure, also one of a flush in the background, RocksDB refuses every write until it is told that the
  // cause may be gone (a full disk has room again). The batch may be written twice: it says the same both times.
  if (!status.ok() && resume()) status = attempt();
  check_status(status, "{}", what);
}

bool Database::resume() {
  const std::unique_lock lock(resume_mutex_);
  if (!recovery_->resume()) return false;
  resumed_ = true;
  return true;
}

void Database::ingest_packs(const std::vector<std::string>& paths) {
  const std::shared_lock lock(resume_mutex_);
  if (resumed_) {
    // Once resumed, RocksDB 7.8 still takes itself for stopped where it numbers files to ingest, and aborts on an
    // assertion (DBImpl::ReserveFileNumbersBeforeIngestion). Until the store is opened again, the slow way.
    for (const std::string& path : paths) copy_packs(path);
    return;
  }
  rocksdb::IngestExternalFileOptions options;
  options.move_files = true;
  check_status(db_->IngestExternalFile(packs, paths, options), "{}: new packs", dir_);
}

void Database::copy_packs(const std::string& path) {
  rocksdb::SstFileReader file(pack_file_options());
  check_status(file.Open(path), "{}", path);
  const std::unique_ptr<rocksdb::Iterator> it(file.NewIterator(rocksdb::ReadOptions()));
  for (it->SeekToFirst(); it->Valid(); it->Next()) {
    rocksdb::WriteBatch batch;
    batch.Put(packs, it->key(), it->value());
    write_once(batch, false, path);
  }
  check_status(it->status(), "{}", path);
  check_status(db_->SyncWAL(), "{}: sync", dir_);
  std::error_code ignored;
  std::filesystem::remove(path, ignored);
}

void Database::write_once(rocksdb::WriteBatch& batch, bool sync, const std::string& what) {
  rocksdb::WriteOptions options;
  options.sync = sync;
  check_status(db_->Write(options, &batch), "{}", what);
}

void Database::get_pack(uint64_t pack, rocksdb::PinnableSlice& out) const {
  out.Reset();
  const rocksdb::Status status = db_->Get(rocksdb::ReadOptions(), packs, pack_key(pack), &out);
  if (status.ok()) return;
  fail(EIO, "pack {} is {}: {}", pack, status.IsNotFound() ? "missing" : "damaged", status.ToString());
}

std::shared_ptr<const rocksdb::PinnableSlice> Database::recent_pack(uint64_t pack) const {
  {
    const std::lock_guard lock(recent_mutex_);
    if (recent_value_ && recent_ == pack) return recent_value_;
  }
  auto value = std::make_shared<rocksdb::PinnableSlice>();
  get_pack(pack, *value);
  const std::lock_guard lock(recent_mutex_);
  recent_ = pack;
  recent_value_ = value;
  return value;
}

}  // namespace ckpt
