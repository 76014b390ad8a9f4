// What a copier still brings when the image has been resumed already: a file again, in an order of its own, or one that
// the manifest does not list.
#pragma once

#include <vector>

#include "engine/image/digest.h"
#include "engine/store/store.h"

namespace ckpt {

/// Keeps nothing but the digest of what is written, so that it can be compared with what was resumed. Reads as zeros.
/// Not thread-safe.
class LateFile : public StagedFile {
 public:
  void write(uint64_t offset, std::span<const std::byte> data) override;
  void read(uint64_t offset, std::span<std::byte> out) const override;
  void truncate(uint64_t size) override;
  uint64_t size() const override { return size_; }
  uint64_t copy_from(const ImageSource& source, std::string_view path, uint64_t source_offset, uint64_t offset,
                     uint64_t length) override;

  /// Of the content. Throws Error(EOPNOTSUPP) where that was not written from its start to its end.
  Digest digest() const;

 private:
  uint64_t size_ = 0;
  bool in_order_ = true;
  std::vector<std::byte> block_;   ///< the last one, not full yet
  std::vector<Digest> blocks_;     ///< of those before it
};

}  // namespace ckpt
