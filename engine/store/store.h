// The store: images by name, pages once by content. One interface; RocksDB behind it today, a shared store later.
//
// A file's content is either inline (small) or a list of blocks of up to 256 pages; a block is a few extents that
// point into packs (runs of up to 256 pages, 1 MiB, in the order they were met). Content addressing is by full
// 256-bit BLAKE3, so a match needs no comparison of bytes. Zero pages are extents of pack 0 and cost nothing.
//
// Thread-safety: Store and StoredImage are thread-safe. An ImageBuilder is thread-safe too, but its commit() must be
// the last call. Everything that an open StoredImage or a live ImageBuilder refers to stays readable, whatever is
// deleted or collected meanwhile.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/fd.h"
#include "engine/image/image.h"
#include "engine/image/manifest.h"

namespace ckpt {

struct ImageInfo {
  std::string name;
  uint64_t id = 0;          ///< never used twice in a store
  ManifestHeader header;
  uint64_t files = 0;
  uint64_t logical_bytes = 0;   ///< sum of the sizes of all files
};

/// A finished image in the store. Immutable.
class StoredImage : public ImageSource {
 public:
  virtual const ImageInfo& info() const = 0;
};

/// A file under construction that is written like any file (the drop box): any order, any size, truncation.
/// Not thread-safe: one lock a file is the caller's business.
class StagedFile {
 public:
  virtual ~StagedFile() = default;
  virtual void write(uint64_t offset, std::span<const std::byte> data) = 0;
  virtual void read(uint64_t offset, std::span<std::byte> out) const = 0;  ///< zeros beyond the end
  virtual void truncate(uint64_t size) = 0;
  virtual uint64_t size() const = 0;
  /// Shares the blocks of another image's file: references move, no page is read, where offsets and length are
  /// multiples of kBlockSize (or reach the end of the source); else it copies. Returns the bytes taken.
  virtual uint64_t copy_from(const ImageSource& source, std::string_view path, uint64_t source_offset,
                             uint64_t offset, uint64_t length) = 0;
};

/// An image under construction: sink for a capture, staging area for the drop box. Nothing of it is visible in the
/// store before commit(), nothing is left of it when it is destroyed without one.
class ImageBuilder : public ImageSink, public ImageSource {
 public:
  /// Opens (creates) a file for random access. EISDIR where it is a directory's name.
  virtual std::shared_ptr<StagedFile> open(std::string_view path) = 0;
  virtual void remove(std::string_view path) = 0;
  virtual void rename(std::string_view from, std::string_view to) = 0;

  /// Bytes of pages so far that the store did not have.
  virtual uint64_t new_bytes() const = 0;

  /// Writes the manifest file (header, and every file with size and digest) into the image under construction.
  virtual void write_manifest(const ManifestHeader& header) = 0;

  /// Makes the image appear under `name`, whole and durable, in one step with one sync. An image that has the name
  /// already is renamed in the same step to `name@K`, K one more than any given before. The manifest must be there.
  /// Throws Error (ENOSPC, EIO, EINVAL for a bad name); then nothing has changed.
  virtual std::shared_ptr<const StoredImage> commit(const std::string& name) = 0;
};

struct StoreStats {
  uint64_t images = 0;
  uint64_t logical_bytes = 0;   ///< sum over all images
  uint64_t unique_pages = 0;    ///< pages in packs
  uint64_t stored_bytes = 0;    ///< bytes on disk, as RocksDB reports them
  uint64_t index_bytes = 0;     ///< memory of the digest index
  uint64_t packs = 0;
};

struct GcResult {
  uint64_t packs_deleted = 0;
  uint64_t packs_rewritten = 0;
  uint64_t pages_freed = 0;
};

struct CheckResult {
  uint64_t pages_checked = 0;
  uint64_t files_checked = 0;
  std::vector<std::string> damage;   ///< one sentence each, naming the images and files it touches
};

/// Called now and then from long work with (done, total) in bytes; returns false to stop (Error EINTR follows).
using Progress = std::function<bool(uint64_t done, uint64_t total)>;

class Store {
 public:
  virtual ~Store() = default;

  virtual std::vector<ImageInfo> images() const = 0;                           ///< sorted by name
  virtual std::shared_ptr<const StoredImage> open_image(std::string_view name) const = 0;  ///< Error ENOENT
  virtual bool has_image(std::string_view name) const = 0;
  /// ENOENT, EEXIST, EINVAL; durable. With an `id`, ENOENT too where another image has the name by now.
  virtual void rename_image(const std::string& from, const std::string& to, uint64_t id = 0) = 0;
  virtual void delete_image(const std::string& name, uint64_t id = 0) = 0;        ///< ENOENT, as above; durable
  virtual std::unique_ptr<ImageBuilder> begin_image(std::string describe) = 0;

  /// An unnamed file beside the store, for data that need not outlive it. Invalid where there can be none.
  virtual UniqueFd scratch_file() { return {}; }

  virtual StoreStats stats() const = 0;
  /// Frees pages that no image refers to. `dry_run` only counts. Runs beside everything else.
  virtual GcResult collect_garbage(bool dry_run, const Progress& progress = {}) = 0;
  enum class CheckLevel { sampled, full };
  /// Reads stored pages again and compares each with its digest: about one in a hundred, or all.
  virtual CheckResult check(CheckLevel level, const Progress& progress = {}) = 0;
};

/// Opens (creates) the RocksDB store in `dir`. EBUSY "DIR: another ckptfs has this store open", EPROTONOSUPPORT for
/// a store of a newer version, EIO for a damaged one. Also used by `ckpt` on an unmounted store.
std::unique_ptr<Store> open_rocksdb_store(const std::string& dir);

/// True for a name an image may have: 1 to 200 bytes of printable non-space characters without '/', not "." or "..",
/// not starting with '.'.
bool valid_image_name(std::string_view name);

}  // namespace ckpt
