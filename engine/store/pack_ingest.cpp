// PackBuilder: what becomes of full packs, until they stand in the database.
#include "engine/store/pack_builder.h"

namespace ckpt {

void PackBuilder::take_file(Writer& w, Files& taken) {
  if (w.pack != kZeroPack) close_pack(w);
  // Closing the pack may have filled the file, and then it is gone already.
  if (w.file) taken.push_back(std::move(w.file));
}

// To be synced and ingested while the next one is filled: whoever writes may be reading from a process that waits.
void PackBuilder::hand_over_file(Writer& w) {
  const std::lock_guard lock(handed_over_mutex_);
  if (handed_over_.valid()) handed_over_.get();
  handed_over_ = std::async(std::launch::async, [this, file = std::move(w.file)]() mutable {
    Files files;
    files.push_back(std::move(file));
    ingest(std::move(files));
  });
}

void PackBuilder::wait_for_handed_over() {
  const std::lock_guard lock(handed_over_mutex_);
  if (handed_over_.valid()) handed_over_.get();
}

// Before a file is ingested it is noted durably that its packs have no rows yet: StoreCore::drop_orphans.
void PackBuilder::note_pending(const Files& files) {
  rocksdb::WriteBatch batch;
  const std::lock_guard lock(note_mutex_);
  if (note_.empty()) {
    note_ = fmt::format("building/{}", core_->next_file++);
    batch.Put(core_->db.meta, note_, "");
  }
  for (const auto& file : files) {
    batch.Put(core_->db.meta, fmt::format("pending/{}", file->first_id()), std::to_string(PackFile::kIds));
  }
  core_->db.write(batch, true, core_->db.dir());
}

// Where it fails the files are removed: on a full disk their room would be missed.
void PackBuilder::ingest(Files files) {
  if (files.empty()) return;
  for (const auto& file : files) file->finish();
  note_pending(files);
  std::vector<std::string> paths;
  rocksdb::WriteBatch rows;
  for (const auto& file : files) {
    paths.push_back(file->path());
    for (const PackFile::Pack& p : file->packs()) {
      rows.Put(core_->db.index, pack_key(p.id), encode_row(p.row.digests, p.row.short_pages));
    }
    rows.Delete(core_->db.meta, fmt::format("pending/{}", file->first_id()));
  }
  core_->db.ingest_packs(paths);
  // Not synced: whoever commits after this syncs the log up to there, and these rows stand before.
  core_->db.write(rows, false, core_->db.dir());
  for (const auto& file : files) {
    for (const PackFile::Pack& p : file->packs()) {
      core_->publish(p.id, p.row);
      forget_pending(p);
    }
  }
}

void PackBuilder::forget_pending(const PackFile::Pack& pack) {
  for (uint16_t slot = 0; slot < pack.row.digests.size(); ++slot) own_.erase(pack.row.digests[slot], {pack.id, slot});
  const std::unique_lock lock(pending_mutex_);
  pending_.erase(pack.id);
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
      if (!w->file || !w->file->has(pack)) return;
      Files taken;
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
    Files taken;
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
