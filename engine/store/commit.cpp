// The step in which an image appears.
#include "engine/base/record.h"
#include "engine/store/builder.h"
#include "engine/store/image_name.h"

namespace ckpt {

namespace {

constexpr uint64_t kMaxManifest = 256 << 20;

// Moves an image that has the name out of the way, in the batch. Returns what the old one is called now.
std::optional<ImageInfo> put_aside(StoreCore& core, const std::string& name, rocksdb::WriteBatch& batch) {
  const auto old = core.names.find(name);   // only changed under commit_mutex, which we hold
  if (old == core.names.end()) return std::nullopt;
  const std::string counter = "count/" + name;
  uint64_t k = read_number(core.db, counter).value_or(0);
  ImageInfo aside = old->second;
  // Somebody may have given such a name by hand.
  do {
    aside.name = earlier_name(name, ++k);
  } while (core.names.contains(aside.name));
  batch.Put(core.db.meta, counter, std::to_string(k));
  batch.Put(core.db.images, aside.name, encode_info(aside));
  return aside;
}

}  // namespace

std::shared_ptr<const StoredImage> RocksBuilder::commit(const std::string& name) {
  if (!valid_image_name(name)) fail(EINVAL, "\"{}\" is not a name that an image may have", escape(name));
  ImageInfo info;
  info.name = name;
  info.header = Manifest::parse(read(kManifestName, kMaxManifest), describe_ + "/manifest").header;
  {
    const std::lock_guard lock(core_->commit_mutex);
    info.id = core_->next_image++;
  }
  std::vector<ImageEntry> entries;
  RocksImage::Files files;
  rocksdb::WriteBatch batch;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [path, named] : tree_) {
      auto record = std::make_shared<const FileRecord>(named.node->record());
      batch.Put(core_->db.files, file_key(info.id, path), encode_file(*record));
      entries.push_back({path, record->type, record->size});
      if (record->type == EntryType::file) info.logical_bytes += record->size;
      files.push_back(std::move(record));
    }
  }
  info.files = entries.size();
  files_->packs.prepare_commit(batch);
  {
    const std::lock_guard lock(core_->commit_mutex);
    const std::optional<ImageInfo> aside = put_aside(*core_, name, batch);
    batch.Put(core_->db.images, name, encode_info(info));
    batch.Put(core_->db.meta, "next image", std::to_string(core_->next_image));
    core_->db.write(batch, true, core_->db.dir());
    const std::unique_lock names_lock(core_->names_mutex);
    if (aside) core_->names[aside->name] = *aside;
    core_->names[name] = info;
  }
  files_->packs.committed();
  core_->wake_flusher();
  auto image = std::make_shared<RocksImage>(core_, std::move(info), std::move(entries), std::move(files));
  core_->add_open_image(image);
  return image;
}

}  // namespace ckpt
