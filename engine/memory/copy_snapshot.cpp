// The plain strategy: memory is read while the process is stopped. A small process's is read into buffers, so that the
// stop does not last until the image has been written.
#include <cstring>

#include "engine/memory/page_scan.h"
#include "engine/memory/remote_memory.h"
#include "engine/memory/snapshot.h"
#include "engine/memory/stop_copies.h"

namespace ckpt {
namespace {

class CopySnapshot : public Snapshot {
 public:
  CopySnapshot(pid_t pid, uint64_t buffer) : scanner_(pid), memory_(pid) {
    if (buffer > 0) copies_.reserve(buffer);
  }

  const char* name() const override { return "copy"; }
  pid_t pid() const override { return memory_.pid(); }
  bool needs_stop() const override { return !buffered_; }

  void fix(const std::vector<Vma>& vmas, Remote&) override {
    std::vector<Range> all;
    uint64_t total = 0;
    for (const Vma& vma : vmas) {
      for (const Range& range : touched(vma)) {
        all.push_back(range);
        total += range.size();
      }
    }
    // More than was foreseen: the process stays stopped instead.
    if (total > copies_.room()) return;
    for (const Range& range : all) copies_.copy(memory_, range);
    buffered_ = true;
  }

  std::vector<Range> touched(const Vma& vma) override {
    return buffered_ ? copies_.within(vma) : scanner_.touched(vma);
  }

  void read(Range range, std::span<std::byte> out) override {
    if (!buffered_) return memory_.read(range.start, out.first(range.size()));
    uint64_t next = 0;
    const std::span<const std::byte> copied = copies_.at(range.start, next);
    if (copied.size() < range.size()) fail(EINVAL, "memory {} is not in the snapshot", range_name(range));
    std::memcpy(out.data(), copied.data(), range.size());
  }

  void release() noexcept override {}

 private:
  PageScanner scanner_;
  RemoteMemory memory_;
  StopCopies copies_;
  bool buffered_ = false;
};

}  // namespace

std::unique_ptr<Snapshot> make_copy_snapshot(pid_t pid, uint64_t buffer) {
  return std::make_unique<CopySnapshot>(pid, buffer);
}

}  // namespace ckpt
