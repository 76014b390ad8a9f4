// An image as an ELF core file, made on the fly: cores/NAME of the mount, for gdb and every other tool that
// reads cores.
//
//   ElfCore core(image);                       // the root process; ElfCore(image, "children/1235/") for a
//   descendant core.read(offset, buffer);                 // any offset, any length within core.size()
//
// Only headers and notes are held in memory; pages are read from the image's segments as they are asked for.
// The notes are those of the kernel's own cores (fs/binfmt_elf.c): for each thread, the main thread first,
// NT_PRSTATUS, NT_FPREGSET, NT_X86_XSTATE and NT_SIGINFO; for the process NT_PRPSINFO, NT_AUXV and NT_FILE.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/image/image.h"

namespace ckpt {

/// Immutable after construction; thread-safe.
class ElfCore {
 public:
  /// Shares ownership of the image. `prefix` is "" or "children/PID/". Throws Error(EINVAL) that names the
  /// file where the image lacks maps, registers, or holds malformed ones; it is the caller's business to
  /// verify the image.
  explicit ElfCore(std::shared_ptr<const ImageSource> image, std::string prefix = "");

  /// Size of the core file in bytes. Untouched gaps in a touched anonymous mapping are part of the file as
  /// zeros, as in a core of the kernel's, unless they are larger than kLargestZeroGap.
  uint64_t size() const { return size_; }

  /// Fills `out` with the bytes at `offset`. Throws Error(EINVAL) beyond the end, EIO for a damaged page.
  void read(uint64_t offset, std::span<std::byte> out) const;

  static constexpr uint64_t kLargestZeroGap = 64 << 20;

 private:
  /// A run of the file behind the headers.
  struct Piece {
    uint64_t offset = 0;  ///< in the core file
    uint64_t size = 0;    ///< bytes in the core file, 0 for memory that is not in the file
    uint64_t address = 0;
    uint64_t memory = 0;  ///< bytes of memory it stands for
    uint32_t flags = 0;   ///< PF_R and so on
    std::string path;     ///< the segment's path, empty for zeros
    uint64_t skip = 0;    ///< offset in the segment
  };
  void add_pieces();
  void write_headers(const std::string& notes);

  std::shared_ptr<const ImageSource> image_;
  std::string prefix_;
  std::string memory_prefix_;
  std::string head_;           ///< ELF header, program headers, notes
  std::vector<Piece> pieces_;  ///< ascending by address and by offset
  uint64_t size_ = 0;
};

}  // namespace ckpt
