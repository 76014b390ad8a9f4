// Pages of an image under construction: found in the store, or written into new packs.
//
// New packs of a small image stay in memory and go into the database with its commit. Of a larger one they are written
// to table files beside the database, one a thread, and each file is ingested when it is full or somebody wants to read
// from it. A full one is synced and ingested by a thread beside, one at a time. Until then its pages are known to this
// builder alone: nobody else may refer to what is not durable.
#pragma once

#include <future>
#include <list>
#include <thread>

#include "engine/store/block_pages.h"
#include "engine/store/pack_file.h"
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
  using Files = std::vector<std::unique_ptr<PackFile>>;
  struct Writer {
    std::mutex mutex;
    std::thread::id owner;              // who used it last: neighbours in memory stay neighbours
    uint64_t pack = kZeroPack;          // the one being filled; none yet for kZeroPack
    bool small = false;
    uint16_t count = 0;
    std::shared_ptr<PackRow> row;
    std::string pages;
    std::unique_ptr<PackFile> file;
  };

  Block store(BlockPages& pages);
  void refer_to(BlockPages& pages, std::span<std::byte> data, const RocksImage& base, const SamePages& same);
  void find_known(BlockPages& pages);
  void find_pending(BlockPages& pages);
  void write_new(BlockPages& pages);

  std::pair<Writer*, std::unique_lock<std::mutex>> take_writer();
  void open_pack(Writer& w);
  PageRef append(Writer& w, std::span<const std::byte> page, const Digest& digest);
  PageRef put_whole_block(Writer& w, std::span<const std::byte> data, std::span<const Digest> digests);
  void close_pack(Writer& w);
  void add_to_file(Writer& w, uint64_t pack, std::span<const std::byte> pages, PackRow row);
  void take_file(Writer& w, Files& taken);
  void hand_over_file(Writer& w);
  void wait_for_handed_over();
  void ingest(Files files);
  void note_pending(const Files& files);
  void forget_pending(const PackFile::Pack& pack);
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

template <typename F>
auto PackBuilder::guarded(F&& work) {
  if (broken_ != 0) fail(broken_, "the image lost pages when an earlier write failed");
  try {
    return work();
  } catch (const Error& e) {
    broken_ = e.err();
    throw;
  } catch (...) {
    broken_ = EIO;
    throw;
  }
}

}  // namespace ckpt
