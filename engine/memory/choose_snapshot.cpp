#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "engine/base/fd.h"
#include "engine/base/record.h"
#include "engine/memory/snapshot.h"
#include "engine/module.h"

namespace ckpt {
namespace {

/// Up to here reading everything costs less than the calls that would shorten the stop.
constexpr uint64_t kSmallProcess = 2 << 20;
/// What a small process may grow until it is stopped.
constexpr uint64_t kGrowth = 1 << 20;
constexpr int kCapSysPtrace = 19;

/// A field of /proc/PID/status.
std::string status_field(const std::string& status, std::string_view name) {
  const size_t at = status.find("\n" + std::string(name) + ":\t");
  if (at == std::string::npos) return {};
  const size_t begin = at + name.size() + 3;
  return status.substr(begin, status.find('\n', begin) - begin);
}

/// "  1234 kB" in bytes; 0 where the field is missing.
uint64_t kilobytes(const std::string& field) {
  const std::vector<std::string> words = split_words(field);
  return words.empty() ? 0 : parse_u64(words[0]).value_or(0) * 1024;
}

/// Whether a userfaultfd that catches faults of the kernel too can be had for the process: by its own right, or through
/// our /dev/userfaultfd.
bool can_fetch_userfaultfd(const std::string& status) {
  const uint64_t caps = parse_u64("0x" + status_field(status, "CapEff")).value_or(0);
  if (caps >> kCapSysPtrace & 1) return true;
  return ::access("/dev/userfaultfd", R_OK | W_OK) == 0;
}

bool uses_userfaultfd(const std::vector<Vma>& vmas) {
  return std::any_of(vmas.begin(), vmas.end(),
                     [](const Vma& vma) { return vma.has_flag("um") || vma.has_flag("uw") || vma.has_flag("ui"); });
}

class NoSnapshot : public Snapshot {
 public:
  explicit NoSnapshot(pid_t pid) : pid_(pid) {}
  const char* name() const override { return "none"; }
  pid_t pid() const override { return pid_; }
  void fix(const std::vector<Vma>&, Remote&) override {}
  std::vector<Range> touched(const Vma&) override { return {}; }
  void read(Range range, std::span<std::byte>) override {
    fail(EINVAL, "memory {} is not in the snapshot", range_name(range));
  }
  void release() noexcept override {}

 private:
  const pid_t pid_;
};

}  // namespace

std::unique_ptr<Snapshot> make_snapshot(std::string_view name, const SnapshotTarget& target) {
  if (name == "write-protect") return make_write_protect_snapshot(target.pid, target.cpus, target.scratch);
  if (name == "kernel") return make_kernel_snapshot(target.pid);
  if (name == "fork") return make_fork_snapshot(target.pid, target.orphans_stay);
  if (name == "copy") return make_copy_snapshot(target.pid);
  fail(EINVAL, "'{}' is no way to take a snapshot", name);
}

std::unique_ptr<Snapshot> choose_snapshot(const SnapshotTarget& target, const std::vector<Vma>& vmas) {
  if (!target.memory) return std::make_unique<NoSnapshot>(target.pid);
  if (!target.only.empty() && target.without.empty()) return make_snapshot(target.only, target);
  if (target.engine == EngineChoice::kernel) return make_kernel_snapshot(target.pid);
  if (target.tracking != nullptr) return make_tracked_snapshot(*target.tracking);
  if (target.stays_stopped || target.without == "fork") return make_copy_snapshot(target.pid);
  const std::string status = read_file(fmt::format("/proc/{}/status", target.pid));
  const uint64_t own = kilobytes(status_field(status, "RssAnon")) + kilobytes(status_field(status, "VmSwap"));
  if (own <= kSmallProcess) return make_copy_snapshot(target.pid, own + kGrowth);
  if (target.engine == EngineChoice::automatic && target.without.empty() && module_serves()) {
    return make_kernel_snapshot(target.pid);
  }
  // A userfaultfd that our death leaves behind in a process that may not close it would be its end at the next fault.
  const bool seccomp = status_field(status, "Seccomp") != "0";
  if (target.without != "write-protect" && !seccomp && !uses_userfaultfd(vmas) && can_fetch_userfaultfd(status)) {
    try {
      return make_write_protect_snapshot(target.pid, target.cpus, target.scratch);
    } catch (const Error& e) {
      if (e.err() != EOPNOTSUPP) throw;
    }
  }
  return make_fork_snapshot(target.pid, target.orphans_stay);
}

}  // namespace ckpt
