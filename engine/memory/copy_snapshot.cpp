// The plain strategy: the process stays stopped until its memory has been read.
#include "engine/memory/page_scan.h"
#include "engine/memory/remote_memory.h"
#include "engine/memory/snapshot.h"

namespace ckpt {
namespace {

class CopySnapshot : public Snapshot {
 public:
  explicit CopySnapshot(pid_t pid) : scanner_(pid), memory_(pid) {}

  const char* name() const override { return "copy"; }
  bool needs_stop() const override { return true; }
  void fix(const std::vector<Vma>&, Remote&) override {}
  std::vector<Range> touched(const Vma& vma) override { return scanner_.touched(vma); }
  void read(Range range, std::span<std::byte> out) override { memory_.read(range.start, out.first(range.size())); }
  void release(Remote*) noexcept override {}

 private:
  PageScanner scanner_;
  RemoteMemory memory_;
};

}  // namespace

std::unique_ptr<Snapshot> make_copy_snapshot(pid_t pid) { return std::make_unique<CopySnapshot>(pid); }

}  // namespace ckpt
