#include "engine/store/recovery.h"

#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "engine/base/fd.h"
#include "engine/store/flush_env.h"

namespace ckpt {

namespace {

using rocksdb::BackgroundErrorReason;
using rocksdb::DB;

constexpr std::chrono::milliseconds kPoll{1};
constexpr std::chrono::seconds kPickLimit{2};   // a thread takes a flush up at once
constexpr std::chrono::seconds kFlushLimit{30};
constexpr uint64_t kSpareBytes = 8 << 20;       // a new log, a new manifest, what tables have beside their data

bool wait_while(std::chrono::seconds limit, auto&& condition) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  while (condition()) {
    if (std::chrono::steady_clock::now() >= deadline) return false;
    std::this_thread::sleep_for(kPoll);
  }
  return true;
}

// Or of a file for which there was none before. RocksDB takes it for fatal, and refuses to resume, where it was to begin
// a new log.
bool is_want_of_room(const rocksdb::Status& status) {
  if (status.IsNoSpace()) return true;
  const std::string text = status.ToString();
  return status.IsIOError() && (text.find("Seen error") != text.npos || text.find("previous error") != text.npos);
}

}  // namespace

void Recovery::watch(DB* db, std::vector<rocksdb::ColumnFamilyHandle*> families) {
  const std::lock_guard lock(mutex_);
  db_ = db;
  families_ = std::move(families);
}

bool Recovery::any_family_has(const std::string& property) {
  const std::lock_guard lock(mutex_);
  for (rocksdb::ColumnFamilyHandle* family : families_) {
    uint64_t value = 0;
    if (db_->GetIntProperty(family, property, &value) && value != 0) return true;
  }
  return false;
}

// Handed out and not begun, or waiting for its turn behind one that runs. Where none is handed out, those that are pending
// wait for a resume.
bool Recovery::flush_is_on_its_way() {
  if (FlushEnv::get().handed_out() == 0) return false;
  if (!any_family_has(DB::Properties::kNumRunningFlushes)) return true;
  return !flush_failed_ && any_family_has(DB::Properties::kMemTableFlushPending);
}

// Called before the database stops, without its mutex, by the thread that met the error: of a write or an ingestion, which
// hold back all others, of a compaction, or of the flushes, of which there is one.
void Recovery::OnBackgroundError(BackgroundErrorReason, rocksdb::Status* error) {
  if (error->severity() > rocksdb::Status::kHardError && is_want_of_room(*error)) {
    *error = rocksdb::Status(*error, rocksdb::Status::kHardError);
  }
  if (FlushEnv::in_flush()) {
    flush_failed_ = true;  // it stays pending without being on its way, and no other will be
    return;
  }
  wait_while(kPickLimit, [this] { return flush_is_on_its_way(); });
}

// Whether a file as large as all that would be written now can be made: where a quota or a limit is what was met, only
// this tells.
bool Recovery::has_room() {
  uint64_t bytes = kSpareBytes;
  {
    const std::lock_guard lock(mutex_);
    for (rocksdb::ColumnFamilyHandle* family : families_) {
      uint64_t size = 0;
      if (db_->GetIntProperty(family, DB::Properties::kCurSizeAllMemTables, &size)) bytes += size;
    }
  }
  const UniqueFd file(open(dir_.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  // A filesystem without unnamed files has to be trusted.
  return !file || posix_fallocate(file.get(), 0, static_cast<off_t>(bytes)) == 0;
}

bool Recovery::resume() {
  if (!wait_while(kFlushLimit, [this] { return any_family_has(DB::Properties::kNumRunningFlushes); })) return false;
  if (!has_room()) return false;
  const uint64_t log = log_number();
  if (!db_->Resume().ok()) return false;
  if (log_number() == log && !change_log()) return false;
  flush_failed_ = false;
  return true;
}

uint64_t Recovery::log_number() {
  std::unique_ptr<rocksdb::LogFile> log;
  return db_->GetCurrentWalFile(&log).ok() ? log->LogNumber() : 0;
}

// Resume() changes the log with a memtable: with all of them empty the database goes on in the log of which a write has
// failed, and aborts on an assertion at the next one (WritableFileWriter::Append).
bool Recovery::change_log() {
  rocksdb::WriteOptions not_in_log;
  not_in_log.disableWAL = true;
  return db_->Delete(not_in_log, families_[0], "nothing of this name").ok() && db_->Resume().ok();
}

}  // namespace ckpt
