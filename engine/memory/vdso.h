// The vDSO of a process: code that the kernel maps into it, with pages of the kernel's data ([vvar]) in front.
//
//   mm         vdso DIGEST          BLAKE3 of the code; absent where the process has none
//   vdso       the code itself
//
// Under the same kernel a resume moves the stub's vDSO to where the process had its own. Under another one, whose vDSO
// differs, the program must still find what it knows at the addresses that it knows:
//
//   - The old code is mapped where it was, as private memory, and each exported function begins with a jump to this
//     kernel's (vdso_code.h). AT_SYSINFO_EHDR goes on to name it.
//   - This kernel's own vDSO lies wherever the kernel finds room.
//   - Where the old pages of data were, there are zeros. Code of the old vDSO that is still under way, because a signal
//     handler runs that has interrupted it, finds clock mode 0 ("none", VDSO_CLOCKMODE_NONE) and a sequence number that
//     is not the one it began with, so it begins anew and makes a system call (lib/vdso/gettimeofday.c); only the coarse
//     clocks would read 0.
//   - No thread may stand in the old code itself, where the jumps are written: the capture lets threads leave it first
//     (StoppedProcess::stop_outside_vdso); one that would not is refused here.
//
// Such a process can be checkpointed again: the old code is memory like any other then, and the jumps lead to where
// the next vDSO will be kept.
#pragma once

#include <string>
#include <vector>

#include "engine/image/maps.h"
#include "engine/kinds/kind.h"
#include "engine/process/stub.h"

namespace ckpt {

/// [vvar], [vvar_vclock], [vdso]: the kernel puts them side by side, in whatever sizes it has, and the code relies on
/// it.
std::vector<Vma> vdso_group(const std::vector<Vma>& vmas);

/// Looks at our own, once: it is this kernel's for every process.
void probe_vdso();

/// Writes both. While the process is stopped.
void capture_vdso(const CaptureContext& ctx, const std::vector<Vma>& vmas, Record& mm);

/// What the image has of it.
struct SavedVdso {
  std::string where;             ///< for messages
  std::vector<Vma> group;        ///< empty where the process had none
  std::string code;              ///< empty where it is this kernel's very one
  bool foreign() const { return !code.empty(); }
};

/// Throws Error: EINVAL (malformed, hostile), ENOEXEC where it is another kernel's and cannot be replaced: a thread is
/// inside it, or the image does not hold it.
SavedVdso parse_vdso(const RestoreContext& ctx, const std::vector<Vma>& vmas, const Record& mm);

/// The vDSO of the stub on its way to its place.
class VdsoMove {
 public:
  static constexpr uint64_t kRoom = 1 << 20;     ///< largest group

  /// `group`: the stub's. To its place, or where that is another vDSO's to `spare`: kRoom bytes that neither layout uses.
  VdsoMove(Stub& stub, const SavedVdso& saved, std::vector<Vma> group, RemotePtr spare);
  /// When all other mappings are made.
  void finish();

 private:
  void move_to(uint64_t address);
  void map_saved();
  uint64_t choose_place();

  Stub& stub_;
  const SavedVdso& saved_;
  std::vector<Vma> group_;       ///< the stub's
};

}  // namespace ckpt
