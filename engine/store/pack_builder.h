// Pages of an image under construction: found in the store, or written into new packs.
//
// New packs of a small image stay in memory and go into the database with its commit. Of a larger one they are written
// to table files beside the database, one a thread, and each file is ingested when it is full or somebody wants to read
// from it. A full one is synced and ingested by a thread beside, one at a time. Until then its pages are known to this
// builder alone: nobody else may refer to what is not durable.
#pragma once

#include <rocksdb/sst_file_writer.h>

#include <future>
#include <list>
#include <optional>
#include <thread>

#include "engine/store/store_core.h"
#include "engine/store/stored_image.h"

namespace ckpt {

/// Thread-safe, except that commit's calls come last.
class PackBuilder {
 public:
  explicit PackBuilder(std::shared_ptr<StoreCore> core);
  ~PackBuilder();
  PackBuilder(const PackBuilder&) = delete;
  PackBuilder& operator=(const PackBuilder&) = delete;

  StoreCore& core() { return *core_; }

  /// Keeps up to kBlockSize bytes; returns where they are. Throws Error(ENOSPC, EIO), and then for ever.
  Block store(std::span<const std::byte> data);
  /// The same with pages of a stored image in it: see BlockSink::put_block().
  Block store(std::span<std::byte> data, const RocksImage& base, std::span<const SamePages> same);
  /// Pages written, not found in the store.
  uint64_t new_pages() const { return new_pages_; }
  /// Refers to blocks of an open image too.
  void pin(std::span<const Extent> extents);
  /// Reads packs, those of this builder included. For one thread.
  PackAccess access();

  /// Makes everything durable that is not to go into the commit's batch, then adds the rest of the packs to it.
  void prepare_commit(rocksdb::WriteBatch& batch);
  /// After the batch was written.
  void committed();

 private:
  struct Pending {                      // a pack that others do not know
    std::shared_ptr<PackRow> row;       // room for all digests from the start
    std::shared_ptr<const std::string> pages;   // a small pack that is full
  };
  struct Finished {                     // a pack with its row
    uint64_t pack;
    PackRow row;
  };
  struct File {                         // a table file that is being written
    File();                             // clang 14 cannot use an implicit one inside of PackBuilder
    std::string path;
    std::unique_ptr<rocksdb::SstFileWriter> writer;
    uint64_t first = 0, next = 0;
    uint64_t bytes = 0;
    std::vector<Finished> packs;
  };
  struct Writer {
    std::mutex mutex;
    std::thread::id owner;              // who used it last: neighbours in memory stay neighbours
    uint64_t pack = kZeroPack;          // the one being filled; none yet for kZeroPack
    bool small = false;
    uint16_t count = 0;
    std::shared_ptr<PackRow> row;
    std::string pages;
    std::optional<File> file;
  };
  struct Pages;                         // those of one store()

  Block store(Pages& pages);
  void refer_to(Pages& pages, std::span<std::byte> data, const RocksImage& base, const SamePages& same);
  void find_known(Pages& pages);
  void find_pending(Pages& pages);
  void write_new(Pages& pages);

  std::pair<Writer*, std::unique_lock<std::mutex>> take_writer();
  void open_pack(Writer& w);
  PageRef append(Writer& w, std::span<const std::byte> page, const Digest& digest);
  PageRef put_whole_block(Writer& w, std::span<const std::byte> data, std::span<const Digest> digests);
  void close_pack(Writer& w);
  void close_pack_with(Writer& w, std::string pages);
  void add_to_file(Writer& w, uint64_t pack, std::span<const std::byte> pages, PackRow row);
  bool file_is_full(const Writer& w) const;
  void take_file(Writer& w, std::vector<File>& taken);
  void hand_over_file(Writer& w);
  void wait_for_handed_over();
  void ingest(std::vector<File> files);
  void ingest_finished(const std::vector<File>& files);
  void note_pending(const std::vector<File>& files);
  void forget_pending(const Finished& pack);
  std::shared_ptr<const std::string> pending_pages(uint64_t pack);

  template <typename F>
  auto guarded(F&& work);               // remembers that the builder is broken when work throws

  const std::shared_ptr<StoreCore> core_;
  Pins pins_;
  DigestIndex own_{8};                  // pages in pending packs
  mutable std::shared_mutex pending_mutex_;
  std::map<uint64_t, Pending> pending_;
  std::atomic<size_t> small_bytes_ = 0;
  std::atomic<uint64_t> new_pages_ = 0;
  std::mutex writers_mutex_;
  std::list<Writer> writers_;
  std::mutex handed_over_mutex_;
  std::future<void> handed_over_;       // the full file that is being ingested
  std::atomic<int> broken_ = 0;         // errno of the write that failed
  std::string note_;                    // key of the row that says this builder has ingested files
  std::mutex note_mutex_;
  bool committed_ = false;
};

}  // namespace ckpt
