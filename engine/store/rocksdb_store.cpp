// The store's interface over its parts, and the thread that collects garbage.
#include <fcntl.h>

#include <algorithm>
#include <thread>

#include "engine/base/record.h"
#include "engine/base/sched.h"
#include "engine/store/builder.h"
#include "engine/store/collector.h"

namespace ckpt {

namespace {

constexpr std::chrono::milliseconds kCollectDelay{500};
constexpr std::chrono::seconds kFlushDelay{5};

// Work in the background that was interrupted, or failed because the disk is at fault. The note in the database stays,
// the next start tries again, and whoever asks for it by hand is told.
template <typename F>
void try_to(F&& work) {
  try {
    work();
  } catch (const std::exception&) {
  }
}

class RocksStore : public Store {
 public:
  explicit RocksStore(const std::string& dir)
      : core_(std::make_shared<StoreCore>(dir)), collector_([this] { work_in_background(); }) {
    if (core_->garbage != 0) core_->wake_collector();
  }
  ~RocksStore() override;

  std::vector<ImageInfo> images() const override;
  std::shared_ptr<const StoredImage> open_image(std::string_view name) const override;
  bool has_image(std::string_view name) const override;
  void rename_image(const std::string& from, const std::string& to, uint64_t id) override;
  void delete_image(const std::string& name, uint64_t id) override;
  std::unique_ptr<ImageBuilder> begin_image(std::string describe) override {
    return std::make_unique<RocksBuilder>(core_, std::move(describe));
  }
  UniqueFd scratch_file() override {
    return UniqueFd(::open(core_->staging().c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  }
  StoreStats stats() const override;
  GcResult collect_garbage(bool dry_run, const Progress& progress) override {
    return ckpt::collect_garbage(*core_, dry_run, progress);
  }
  CheckResult check(CheckLevel level, const Progress& progress) override {
    return check_store(core_, level, progress);
  }

 private:
  void work_in_background();
  ImageInfo find_name(const std::string& name, uint64_t id) const;

  std::shared_ptr<StoreCore> core_;
  std::thread collector_;
};

RocksStore::~RocksStore() {
  {
    const std::lock_guard lock(core_->collector_mutex);
    core_->collector_stops = true;
    core_->collector_wakes.notify_all();
  }
  core_->stop_compaction = true;
  collector_.join();
}

void RocksStore::work_in_background() {
  give_way();
  std::unique_lock lock(core_->collector_mutex);
  const auto stops = [&] { return core_->collector_stops; };
  const auto collects = [&] { return core_->collector_wanted || stops(); };
  for (;;) {
    core_->collector_wakes.wait(lock, [&] { return collects() || core_->unflushed; });
    if (!collects() && !core_->collector_wakes.wait_for(lock, kFlushDelay, collects)) {
      core_->unflushed = false;
      lock.unlock();
      try_to([&] { core_->db.flush(); });
      lock.lock();
      continue;
    }
    // Deletions mostly come in groups (rm -r of several): one collection for all.
    if (!stops()) core_->collector_wakes.wait_for(lock, kCollectDelay, stops);
    if (stops()) return;
    core_->collector_wanted = false;
    lock.unlock();
    try_to([&] {
      ckpt::collect_garbage(*core_, false, [&](uint64_t, uint64_t) {
        const std::lock_guard inner(core_->collector_mutex);
        return !stops();
      });
    });
    lock.lock();
  }
}

std::vector<ImageInfo> RocksStore::images() const {
  const std::shared_lock lock(core_->names_mutex);
  std::vector<ImageInfo> out;
  for (const auto& [name, info] : core_->names) out.push_back(info);
  return out;
}

std::shared_ptr<const StoredImage> RocksStore::open_image(std::string_view name) const {
  const std::shared_lock lock(core_->names_mutex);
  const auto it = core_->names.find(name);
  if (it == core_->names.end()) fail(ENOENT, "images/{}: no such image", escape(name));
  auto image = RocksImage::load(core_, it->second);
  core_->add_open_image(image);
  return image;
}

bool RocksStore::has_image(std::string_view name) const {
  const std::shared_lock lock(core_->names_mutex);
  return core_->names.contains(name);
}

// Under commit_mutex.
ImageInfo RocksStore::find_name(const std::string& name, uint64_t id) const {
  const auto it = core_->names.find(name);
  if (it == core_->names.end() || (id != 0 && id != it->second.id)) fail(ENOENT, "images/{}: no such image", escape(name));
  return it->second;
}

void RocksStore::rename_image(const std::string& from, const std::string& to, uint64_t id) {
  if (!valid_image_name(to)) fail(EINVAL, "\"{}\" is not a name that an image may have", escape(to));
  const std::lock_guard lock(core_->commit_mutex);
  ImageInfo info = find_name(from, id);
  if (from == to) return;
  if (core_->names.contains(to)) fail(EEXIST, "images/{}: there is such an image already", to);
  info.name = to;
  rocksdb::WriteBatch batch;
  batch.Delete(core_->db.images, from);
  batch.Put(core_->db.images, to, encode_info(info));
  core_->db.write(batch, true, fmt::format("images/{}: rename to {}", from, to));
  const std::unique_lock names_lock(core_->names_mutex);
  core_->names.erase(from);
  core_->names[to] = std::move(info);
}

void RocksStore::delete_image(const std::string& name, uint64_t id) {
  {
    const std::lock_guard lock(core_->commit_mutex);
    const ImageInfo info = find_name(name, id);
    rocksdb::WriteBatch batch;
    batch.Delete(core_->db.images, name);
    batch.DeleteRange(core_->db.files, pack_key(info.id), pack_key(info.id + 1));
    core_->note_garbage(batch);
    // Nobody reads its rows now, and nobody begins to.
    const std::unique_lock names_lock(core_->names_mutex);
    core_->db.write(batch, true, fmt::format("images/{}: delete", name));
    core_->names.erase(name);
  }
  core_->wake_collector();
}

StoreStats RocksStore::stats() const {
  StoreStats out;
  {
    const std::shared_lock lock(core_->names_mutex);
    out.images = core_->names.size();
    for (const auto& [name, info] : core_->names) out.logical_bytes += info.logical_bytes;
  }
  out.unique_pages = core_->index.size();
  out.index_bytes = core_->index.memory_bytes();
  out.packs = core_->packs;
  const Database& db = core_->db;
  for (rocksdb::ColumnFamilyHandle* family : {db.meta, db.packs, db.index, db.images, db.files}) {
    uint64_t bytes = 0;
    if (db->GetIntProperty(family, rocksdb::DB::Properties::kTotalSstFilesSize, &bytes)) out.stored_bytes += bytes;
  }
  rocksdb::VectorLogPtr logs;
  if (db->GetSortedWalFiles(logs).ok()) {
    for (const auto& log : logs) out.stored_bytes += log->SizeFileBytes();
  }
  return out;
}

}  // namespace

std::unique_ptr<Store> open_rocksdb_store(const std::string& dir) { return std::make_unique<RocksStore>(dir); }

bool valid_image_name(std::string_view name) {
  if (name.empty() || name.size() > 200 || name.front() == '.') return false;
  return std::all_of(name.begin(), name.end(), [](char c) { return c > ' ' && c < 0x7f && c != '/'; });
}

}  // namespace ckpt
