// The mappings of a process as an image describes them: `maps` and `smaps`, written as in /proc, and the names of the
// runs of memory below segments/.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/image/digest.h"

namespace ckpt {

/// End of the largest user address space (x86-64 with five levels of page tables, arch/x86/include/asm/page_64_types.h).
inline constexpr uint64_t kTaskSizeMax = (uint64_t{1} << 56) - kPageSize;

/// One mapping (VMA) of a process.
struct Vma {
  uint64_t start = 0, end = 0;
  uint32_t prot = 0;             ///< PROT_*
  bool shared = false;
  uint64_t offset = 0;           ///< into the file, bytes
  uint32_t dev_major = 0, dev_minor = 0;
  uint64_t inode = 0;
  std::string path;              ///< as in /proc/PID/maps: a path, "[heap]", "" ... (newlines stay \012)
  std::string vm_flags;          ///< two-letter words of smaps' VmFlags, "" where not read
  uint64_t size() const { return end - start; }
  uint32_t protection_key = 0;   ///< of smaps (pkeys(7)), 0 where not read
  bool has_flag(std::string_view two_letters) const;
  /// Whether the one "??" in vm_flags, if there is one, stands for memory locked on fault (mlock2(2)), and nothing else
  /// can have been meant by it.
  bool nameless_lock_on_fault() const;
  bool locked_on_fault() const { return has_flag("lf") || nameless_lock_on_fault(); }
  bool anonymous() const { return inode == 0 && !shared; }
  bool special() const;          ///< [vdso], [vvar], [vvar_vclock], [vsyscall]: the kernel's own, never saved
  /// A mapping of a file without a name: memfd, shared anonymous memory, System V segment, deleted file.
  bool unnamed_file() const;
  /// For messages: "mapping 7f12-7f13 (/lib/x.so)".
  std::string name() const;
};

/// Text of /proc/PID/maps or smaps -> VMAs, ascending, disjoint, page-aligned, within the address space. Throws
/// Error(EINVAL) with `where` on anything else (hostile in an image).
std::vector<Vma> parse_maps(std::string_view text, const std::string& where);

/// The same of a process that ran while the file was read: where mappings overlap since they changed meanwhile, the earlier
/// one is cut, or goes.
std::vector<Vma> parse_live_maps(std::string_view text, const std::string& where);

/// A run of memory to save, page-aligned.
struct Range {
  uint64_t start = 0, end = 0;
  uint64_t size() const { return end - start; }
  auto operator<=>(const Range&) const = default;
};

/// The name of a run below segments/: "00400000-00401000", spelled as in /proc/PID/maps; and strictly back again.
/// Throws Error(EINVAL), `where` being the file's path.
std::string range_name(Range range);
Range parse_range_name(std::string_view name, const std::string& where);

}  // namespace ckpt
