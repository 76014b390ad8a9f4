// What a program has chosen for its address space that is no memory: in `mm` (layout.h)
//
//   membarrier 0x14    the commands of membarrier(2) that register it, as MEMBARRIER_CMD_GET_REGISTRATIONS tells them
//   futex_hash 64      slots of its own table of futexes (PR_FUTEX_HASH, Linux 6.17)
//
// A local descriptor table, modify_ldt(2), is refused.
#pragma once

#include "engine/kinds/kind.h"
#include "engine/kinds/questions.h"

namespace ckpt {

void ask_mm_settings(Questions& questions);
/// Throws Error(EOPNOTSUPP) for a local descriptor table.
void capture_mm_settings(const CaptureContext& ctx, const Questions& answers, Record& out);

struct MmSettings {
  uint64_t membarrier = 0;
  std::optional<uint64_t> futex_hash;
};
/// Throws Error(EINVAL).
MmSettings parse_mm_settings(const Record& mm);
/// With calls of a thread of the new process, best while it has none to wait for: a command that registers does so for all
/// CPUs where others have the memory too.
void apply_mm_settings(Remote& leader, const MmSettings& settings);

}  // namespace ckpt
