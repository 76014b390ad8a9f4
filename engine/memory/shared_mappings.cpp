#include <fcntl.h>

#include "engine/kinds/memory_object.h"
#include "engine/memory/capture_memory.h"

namespace ckpt {

void capture_shared_mappings(const CaptureContext& ctx, const std::vector<Vma>& vmas) {
  for (const Vma& vma : vmas) {
    if (!vma.unnamed_file()) continue;
    // Private huge pages hang on a file of hugetlbfs that never holds anything: their pages are in segments/.
    if (!vma.shared && vma.path.starts_with("/anon_hugepage")) continue;
    // Of several mappings of one object only the first is opened.
    if (ctx.objects->count(memory_object_name(vma.dev_major, vma.dev_minor, vma.inode))) continue;
    // map_files wants CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN (fs/proc/base.c), and opens the very inode.
    const std::string link = fmt::format("map_files/{:x}-{:x}", vma.start, vma.end);
    UniqueFd fd(::openat(ctx.proc_dir, link.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd) fail_errno("{}: {}: open", ctx.pid, vma.name());
    capture_memory_object(ctx, fd.get(), vma.path);
  }
}

}  // namespace ckpt
