// What of a lazily filled address space is still to come, and from where in the image.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "engine/image/maps.h"

namespace ckpt {

/// Addresses of pages that are missing yet, each with its place in a file of the image. Not thread-safe.
class LazyMap {
 public:
  using Path = std::shared_ptr<const std::string>;
  struct Piece {
    Range range;
    Path path;
    uint64_t offset = 0;         ///< of its first page in the file
  };

  /// Whole pages; replaces what was there.
  void add(Range range, const Path& path, uint64_t offset);
  /// They are there, or will never be.
  void remove(Range range);
  /// mremap(2): what is to come at `from` comes at `to`, and nothing else does there.
  void move(Range from, uint64_t to);

  bool empty() const { return entries_.empty(); }
  uint64_t bytes() const { return bytes_; }
  /// The piece with `address`, as far as it lies within the same `window` bytes (a power of two).
  std::optional<Piece> at(uint64_t address, uint64_t window) const;
  /// The first piece at or after `address`, else the first of all, at most up to the next multiple of `window`.
  std::optional<Piece> next(uint64_t address, uint64_t window) const;

 private:
  struct Entry {
    uint64_t end;
    Path path;
    uint64_t offset;
  };
  using Entries = std::map<uint64_t, Entry>;   // by start; disjoint

  void split(uint64_t at);
  Entries::const_iterator find(uint64_t address) const;
  static Piece cut(Entries::const_iterator entry, Range to);

  Entries entries_;
  uint64_t bytes_ = 0;
};

}  // namespace ckpt
