// The address space of a process: its mappings, the vDSO, and the kernel's notes about it (struct mm_struct).
//
//   maps       as /proc/PID/maps, taken at the stop: what is mapped where
//   smaps      the same with each mapping's VmFlags (of madvise, mlock, ...); without it the mappings have none
//   mm         start_code, end_code, start_data, end_data, start_brk, brk, start_stack,
//              arg_start, arg_end, env_start, env_end       addresses, hex (proc(5), /proc/PID/stat; brk by brk(2))
//              vdso DIGEST               see vdso.h
//              guard, pkeys, lock_future, merge_any     see memory_marks.h
//              membarrier, futex_hash                   see mm_settings.h
//              thp_disable N             prctl(PR_GET_THP_DISABLE)
//              mdwe N                    prctl(PR_GET_MDWE), absent before Linux 6.3
//   files      the mapped files (mapped_files.h)
//   auxv       as in /proc
//
// Capture and restore side by side. The restore works in a stub (process/stub.h) whose own memory it removes.
#pragma once

#include <string>
#include <vector>

#include "engine/image/maps.h"
#include "engine/kinds/kind.h"
#include "engine/memory/inherited.h"
#include "engine/memory/mapped_files.h"
#include "engine/memory/memory_marks.h"
#include "engine/memory/mm_settings.h"
#include "engine/memory/vdso.h"
#include "engine/process/stub.h"

namespace ckpt {

// ---- capture ----------------------------------------------------------------------------------------------------

/// Asks this kernel, once, what the rest must know of it: before a stop, of which it would be a part.
void probe_mm();

/// Writes `mm` and `files`. While the process is stopped. `vmas` as of the stop.
void ask_mm(const CaptureContext& ctx, Questions& questions);
void capture_mm(const CaptureContext& ctx, const std::vector<Vma>& vmas, const Questions& answers);

// ---- restore ----------------------------------------------------------------------------------------------------

/// An address space as an image describes it, parsed and found to be possible; nothing has been made.
struct Layout {
  struct MmFields {
    uint64_t start_code = 0, end_code = 0, start_data = 0, end_data = 0, start_brk = 0, brk = 0, start_stack = 0;
    uint64_t arg_start = 0, arg_end = 0, env_start = 0, env_end = 0;
  };
  std::string where;             ///< image, for messages
  std::vector<Vma> vmas;         ///< with vm_flags; [vsyscall] left out
  MmFields fields;
  std::string auxv;              ///< raw
  std::string exe;               ///< path as the link says
  SavedVdso vdso;
  MemoryMarks marks;
  MmSettings settings;
  uint64_t thp_disable = 0;
  uint64_t mdwe = 0;
};

/// Parses maps, mm, auxv and exe of ctx.prefix. Throws Error: EINVAL (malformed, hostile), EPERM (mappings below
/// 64 KiB or more locked memory than the caller may have), EOPNOTSUPP (a kind of mapping that cannot be made).
Layout parse_layout(const RestoreContext& ctx);

/// Everything that must be open before the process is made: mapped files, objects of shared memory, the executable.
class LayoutFiles {
 public:
  /// With the file access rights of the calling thread. Throws Error naming the file.
  LayoutFiles(const RestoreContext& ctx, const Layout& layout);
  /// Descriptor for a mapping, -1 for anonymous memory.
  int descriptor(const Vma& vma) const;
  int exe() const { return exe_; }
  size_t count() const { return named_.count() + objects_.size(); }

 private:
  MappedFiles named_;
  std::map<std::string, int> objects_;     // owned by ctx.objects
  UniqueFd own_exe_;
  int exe_ = -1;
};

/// Builds the address space in the stub: helper pages in a hole, everything of the stub away, the vDSO moved to where
/// it was, all mappings with their final permissions and advice, empty but for what is `inherited`, and left alone. Then
/// fill_memory(), then finish_layout(). Throws Error.
void build_layout(Stub& stub, const Layout& layout, const LayoutFiles& files, const Inheritance& inherited = {});

/// The second half: locked memory, and the kernel's notes about program, arguments, heap and stack (PR_SET_MM_MAP).
void finish_layout(Stub& stub, const Layout& layout, const LayoutFiles& files);

/// What makes further mappings impossible for the process (PR_SET_MDWE): last of all.
void restrict_layout(Stub& stub, const Layout& layout);

}  // namespace ckpt
