// Single pages that had to be copied before their turn: in memory as far as that goes, then in a file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "engine/base/fd.h"

namespace ckpt {

/// Opens an unnamed file; an invalid one where there can be none.
using ScratchFile = std::function<UniqueFd()>;

/// Thread-safe. Memory and disk are taken from the system as pages are used and given back at the end.
class SidePages {
 public:
  using Slot = uint32_t;

  /// Room for `pages` in memory, and, if `scratch` is given, for as many in its file as take a quarter of the free disk:
  /// the file is opened when it is needed, and written to the page cache of the kernel, which has it long before the
  /// disk does.
  explicit SidePages(size_t pages, ScratchFile scratch = {});
  SidePages(const SidePages&) = delete;
  ~SidePages();

  /// Keeps a page of kPageSize bytes; nothing where there is no room.
  std::optional<Slot> keep(std::span<const std::byte> page);
  /// Copies it to `out`, and has its room back. Throws Error(EIO).
  void take(Slot slot, std::byte* out);
  void drop(Slot slot);
  /// How many more there is room for.
  size_t free_pages() const;

 private:
  bool open_scratch();
  bool keep_in_file(Slot slot, std::span<const std::byte> page);

  const size_t pages_;
  std::byte* base_;
  mutable std::mutex mutex_;           // guards what follows
  ScratchFile scratch_;                ///< none where it has been opened or refused
  UniqueFd file_;
  size_t limit_;                       ///< pages in memory and file
  std::vector<Slot> free_, free_in_file_;   ///< used before
  size_t fresh_ = 0;                   ///< pages from here on were never used
};

}  // namespace ckpt
