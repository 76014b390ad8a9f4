#include "engine/process/vfork.h"

#include <sched.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "engine/base/error.h"
#include "engine/base/record.h"
#include "engine/process/procfs.h"

namespace ckpt {
namespace {

/// The flags stand first in struct clone_args.
uint64_t clone3_flags(pid_t tid, uint64_t args) {
  uint64_t flags = 0;
  const iovec local = {&flags, sizeof flags};
  const iovec remote = {reinterpret_cast<void*>(args), sizeof flags};
  return ::process_vm_readv(tid, &local, 1, &remote, 1, 0) == sizeof flags ? flags : 0;
}

}  // namespace

bool waits_in_vfork(int proc_dir, pid_t tid) {
  try {
    // "56 0x4111 ..." of one that waits in a system call, "running" of another (proc(5)).
    const auto words = split_words(read_file(proc_dir, fmt::format("task/{}/syscall", tid)));
    if (words.size() < 2) return false;
    if (words[0] == std::to_string(SYS_vfork)) return true;
    const uint64_t first = parse_u64(words[1]).value_or(0);
    if (words[0] == std::to_string(SYS_clone)) return (first & CLONE_VFORK) != 0;
    return words[0] == std::to_string(SYS_clone3) && (clone3_flags(tid, first) & CLONE_VFORK) != 0;
  } catch (const Error&) {
    return false;  // it has ended, or is not ours to look at
  }
}

pid_t thread_in_vfork(int proc_dir) {
  for (const pid_t tid : list_tasks(proc_dir)) {
    if (waits_in_vfork(proc_dir, tid)) return tid;
  }
  return 0;
}

}  // namespace ckpt
