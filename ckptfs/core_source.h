// Where the files of cores/ come from: an ELF core made on the fly from a stored image.
#pragma once

#include <functional>
#include <memory>
#include <span>

#include "engine/store/store.h"

namespace ckpt {

/// One ELF core. Immutable, thread-safe.
class CoreSource {
 public:
  virtual ~CoreSource() = default;
  virtual uint64_t size() const = 0;
  /// Fills `out` from `offset`; the range lies within the file. Throws Error (EIO for a damaged page).
  virtual void read(uint64_t offset, std::span<std::byte> out) const = 0;
};

/// Makes the core of process `pid` of an image. Throws Error where the image does not allow it. An empty function:
/// this program makes no cores, and cores/ is empty.
using CoreFactory =
    std::function<std::shared_ptr<const CoreSource>(std::shared_ptr<const StoredImage> image, int pid)>;

/// The factory that ckptfs uses: ElfCore.
std::shared_ptr<const CoreSource> elf_core_of(std::shared_ptr<const StoredImage> image, int pid);

}  // namespace ckpt
