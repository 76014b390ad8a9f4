// A copy-on-write copy of the process's memory that the kernel module makes (kmod/snapshot.c): no child, no system call of
// the process, nothing to take back in a second stop. The stop grows with the page tables, as that of a fork does.
#include <sys/ioctl.h>

#include <array>

#include "engine/memory/cow_snapshot.h"
#include "engine/module.h"
#include "kmod/ckpt_device.h"

namespace ckpt {
namespace {

class KernelSnapshot : public CowSnapshot {
 public:
  explicit KernelSnapshot(pid_t pid) : CowSnapshot(pid), module_(open_module()) {}

  const char* name() const override { return "kernel"; }
  bool by_module() const override { return !needs_stop(); }
  void release() noexcept override { copy_.reset(); }

 protected:
  bool make_copy(Remote&) override {
    ckpt_snapshot request = {};
    request.pid = pid_;
    copy_.reset(::ioctl(module_.get(), CKPT_IOC_SNAPSHOT, &request));
    if (!copy_ && errno == ESRCH) fail(ESRCH, "{}: the process has ended", pid_);
    return static_cast<bool>(copy_);
  }

  std::vector<Range> touched_in_copy(const Vma& vma) override {
    std::vector<Range> found;
    if (vma.shared || vma.special()) return found;
    std::array<ckpt_run, 512> runs;
    for (uint64_t at = vma.start; at < vma.end;) {
      ckpt_runs request = {};
      request.start = at;
      request.end = vma.end;
      request.runs = reinterpret_cast<uint64_t>(runs.data());
      request.capacity = runs.size();
      if (::ioctl(copy_.get(), CKPT_SNAPSHOT_RUNS, &request) != 0) {
        if (errno == EINTR) continue;
        fail_errno("{}: the pages of {} in the snapshot", pid_, vma.name());
      }
      for (uint32_t i = 0; i < request.count; ++i) found.push_back({runs[i].start, runs[i].end});
      at = request.next;
    }
    return close_gaps(found, vma.anonymous() ? kMergeGapPages * kPageSize : 0);
  }

  void read_copy(Range range, std::span<std::byte> out) override {
    pread_all(copy_.get(), out, range.start, fmt::format("{}: memory {} in the snapshot", pid_, range_name(range)));
  }

 private:
  UniqueFd module_;
  UniqueFd copy_;
};

}  // namespace

std::unique_ptr<Snapshot> make_kernel_snapshot(pid_t pid) { return std::make_unique<KernelSnapshot>(pid); }

}  // namespace ckpt
