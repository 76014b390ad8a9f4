// From the image back into a new process: the content of segments/.
#pragma once

#include "engine/engine.h"
#include "engine/image/maps.h"
#include "engine/memory/inherited.h"
#include "engine/process/remote.h"

namespace ckpt {

/// One file of segments/.
struct Segment {
  Range range;
  std::string path;              ///< in the image
};

/// The segments of one process (`prefix` as in CaptureContext), ascending. Throws Error(EINVAL) naming the file where
/// a name is malformed, two overlap, a size does not match, or a run is not wholly inside private mappings of `vmas`
/// (in a shared mapping it would change a file that others use). Hostile input is expected.
std::vector<Segment> list_segments(const ImageSource& image, const std::string& prefix,
                                   const std::vector<Vma>& vmas);

struct FilledMemory {
  uint64_t bytes = 0;
  const char* method = "";       ///< "userfaultfd" or "write", for stats
};

/// Brings the segments into the process of `remote`, whose mappings `vmas` are there at their addresses, fresh, with
/// their final permissions and MADV_HUGEPAGE, not yet locked. No thread of it may run meanwhile. Uses up to two
/// threads; no privilege beyond ptrace access. Pages of zeros in anonymous memory are left untouched. Throws Error
/// (ESRCH, EIO, EINTR after `cancel`, EINVAL as list_segments).
/// Of what it has `inherited` only the pages are written that are to be others; what it is not to have is given back.
FilledMemory fill_memory(const ImageSource& image, const std::string& prefix, const std::vector<Vma>& vmas,
                         Remote& remote, const CancelFlag* cancel = nullptr, const Inheritance& inherited = {});

}  // namespace ckpt
