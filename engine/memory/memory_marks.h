// What is kept of a process's memory beside its mappings and their VmFlags: guard regions, protection keys, and what
// holds for mappings to come.
//
//   mm         guard START-END          a guard region (madvise(2), MADV_GUARD_INSTALL), once for each
//              pkeys MASK               protection keys that are allocated (pkeys(7)), bit N for key N; absent for none
//              lock_future 1|2          mlockall(2) with MCL_FUTURE, 2 with MCL_ONFAULT as well; absent for neither
//              merge_any 1              prctl(2) PR_SET_MEMORY_MERGE
//
// Which key a mapping has stands in smaps.
#pragma once

#include <vector>

#include "engine/base/record.h"
#include "engine/image/maps.h"
#include "engine/kinds/kind.h"
#include "engine/kinds/questions.h"
#include "engine/process/remote.h"

namespace ckpt {

/// Asks what this kernel has of them, once: it takes a millisecond, and so belongs before a stop.
void probe_memory_marks();

/// While the process is stopped; `vmas` with their VmFlags. Throws Error.
void ask_memory_marks(const CaptureContext& ctx, Questions& questions);
void capture_memory_marks(const CaptureContext& ctx, const std::vector<Vma>& vmas, const Questions& answers, Record& mm);

struct MemoryMarks {
  std::vector<Range> guards;
  uint64_t pkeys = 0;
  uint64_t lock_future = 0;
  bool merge_any = false;

  /// Whether a guard region lies in a mapping.
  bool guarded(const Vma& vma) const;
};

/// Throws Error(EINVAL).
MemoryMarks parse_memory_marks(const Record& mm);

// The steps of a restore, in this order. Each throws Error: EOPNOTSUPP where the kernel or the CPU lacks it.

/// Before any mapping is made: keys are allocated.
void begin_memory_marks(Remote& leader, const MemoryMarks& marks, const std::vector<Vma>& vmas);
/// When all are made: each gets its key.
void apply_protection_keys(Remote& leader, const MemoryMarks& marks, const std::vector<Vma>& vmas);
/// When they are filled and not yet locked.
void install_guards(Remote& leader, const MemoryMarks& marks);
/// Last of all.
void lock_future_memory(Remote& leader, const MemoryMarks& marks);

}  // namespace ckpt
