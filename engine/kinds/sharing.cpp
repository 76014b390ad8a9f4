#include "engine/kinds/sharing.h"

#include <linux/kcmp.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>

#include "engine/base/error.h"

namespace ckpt {

namespace {

constexpr uint64_t kMaxPid = 1 << 22;  // PID_MAX_LIMIT

constexpr std::array<SharingKind, 5> kKinds = {{
    {&Sharing::memory, KCMP_VM, CLONE_VM, "memory_of", "memory"},
    {&Sharing::descriptors, KCMP_FILES, CLONE_FILES, "descriptors_of", "descriptor table"},
    {&Sharing::directories, KCMP_FS, CLONE_FS, "directories_of", "working directory and umask"},
    {&Sharing::signal_actions, KCMP_SIGHAND, CLONE_SIGHAND, "signal_actions_of", "signal actions"},
    {&Sharing::semaphore_undo, KCMP_SYSVSEM, CLONE_SYSVSEM, "semaphore_undo_of", "semaphore adjustments"},
}};

/// As compare_files() in shared_descriptions.cpp; 1 and 2 for one that has ended, or is not ours to compare.
int compare(pid_t a, pid_t b, int type) {
  const long result = ::syscall(SYS_kcmp, a, b, type, 0, 0);
  return result >= 0 ? static_cast<int>(result) : a < b ? 1 : 2;
}

}  // namespace

std::span<const SharingKind> sharing_kinds() { return kKinds; }

uint64_t Sharing::clone_flags() const {
  uint64_t flags = 0;
  for (const SharingKind& kind : kKinds) {
    if (this->*kind.owner != 0) flags |= kind.clone_flag;
  }
  return flags;
}

std::map<pid_t, Sharing> find_sharing(const std::vector<pid_t>& pids) {
  std::map<pid_t, Sharing> found;
  for (const SharingKind& kind : kKinds) {
    std::vector<pid_t> owners;  // in the order of kcmp(2)
    for (const pid_t pid : pids) {
      // Those who have none are alike as well.
      if (kind.kcmp_type == KCMP_SYSVSEM && !has_semaphore_undo(pid)) continue;
      size_t begin = 0, end = owners.size();
      pid_t owner = 0;
      while (begin < end && owner == 0) {
        const size_t middle = begin + (end - begin) / 2;
        const int order = compare(pid, owners[middle], kind.kcmp_type);
        if (order == 0) owner = owners[middle];
        (order == 1 ? end : begin) = order == 1 ? middle : middle + 1;
      }
      if (owner != 0) {
        found[pid].*kind.owner = owner;
      } else {
        owners.insert(owners.begin() + static_cast<ptrdiff_t>(begin), pid);
      }
    }
  }
  return found;
}

bool differs(pid_t first, pid_t thread, const SharingKind& kind) {
  if (::syscall(SYS_kcmp, first, thread, kind.kcmp_type, 0, 0) <= 0) return false;
  return kind.kcmp_type != KCMP_SYSVSEM || has_semaphore_undo(thread);
}

bool has_semaphore_undo(pid_t pid) {
  // kcmp(2) compares the lists, and so tells one that is not there (sysvsem.undo_list in include/linux/sem.h) by ours. That is
  // there again whenever this thread has started another (copy_semundo() in ipc/sem.c).
  return ::unshare(CLONE_SYSVSEM) != 0 || compare(static_cast<pid_t>(::syscall(SYS_gettid)), pid, KCMP_SYSVSEM) != 0;
}

void add_sharing(const Sharing& sharing, Record& out) {
  for (const SharingKind& kind : kKinds) {
    if (sharing.*kind.owner != 0) out.add(kind.field, sharing.*kind.owner);
  }
}

Sharing parse_sharing(const Record& record) {
  Sharing sharing;
  for (const SharingKind& kind : kKinds) {
    if (record.has(kind.field)) sharing.*kind.owner = static_cast<pid_t>(record.get_u64(kind.field, kMaxPid));
  }
  return sharing;
}

}  // namespace ckpt
