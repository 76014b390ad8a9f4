#include "tools/ckpt/kernel_check.h"

#include <fcntl.h>
#include <linux/kcmp.h>
#include <linux/sched.h>
#include <linux/userfaultfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cstdlib>

#include "engine/base/error.h"
#include "engine/base/fd.h"
#include "engine/base/record.h"
#include "engine/memory/page_scan.h"
#include "engine/memory/userfault.h"

namespace ckpt::tool {

namespace {

// Newer than Debian 12's headers. From include/uapi/linux/userfaultfd.h (Linux 6.7) and prctl.h (6.15).
constexpr uint64_t kFeatureWpAsync = 1 << 15;
constexpr int kTimerCreateRestoreIds = 77;
constexpr int kTimerCreateRestoreIdsGet = 2;

constexpr int kOldestMajor = 6, kOldestMinor = 1;

/// `result` is that of a system call; the reason of a failure is added to the purpose.
KernelFeature of_call(const char* name, bool needed, const char* purpose, long result) {
  const int err = errno;
  return {name, needed, result >= 0, result >= 0 ? purpose : fmt::format("{}: {}", purpose, errno_text(err))};
}

KernelFeature probe_version() {
  struct utsname name {};
  ::uname(&name);
  char* rest = nullptr;
  const long major = std::strtol(name.release, &rest, 10);
  const long minor = *rest == '.' ? std::strtol(rest + 1, nullptr, 10) : 0;
  const bool new_enough = major > kOldestMajor || (major == kOldestMajor && minor >= kOldestMinor);
  return {"Linux 6.1", true, new_enough, fmt::format("this is {} on {}", name.release, name.machine)};
}

KernelFeature probe_ptrace_scope() {
  const UniqueFd fd(::open("/proc/sys/kernel/yama/ptrace_scope", O_RDONLY | O_CLOEXEC));
  const std::string scope = fd ? read_all(fd.get(), "ptrace_scope") : "0";
  return {"ptrace", true, scope[0] != '3',
          fmt::format("stops processes; yama's ptrace_scope is {}", scope[0])};
}

KernelFeature probe_pidfd_getfd() {
  const UniqueFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0)));
  const UniqueFd copy(static_cast<int>(::syscall(SYS_pidfd_getfd, pidfd.get(), pidfd.get(), 0)));
  return of_call("pidfd_getfd", true, "reads descriptors of a process", copy.get());
}

KernelFeature probe_process_vm() {
  char from = 1, to = 0;
  const iovec local{&to, 1}, remote{&from, 1};
  return of_call("process_vm_readv", true, "reads memory of a process",
                 ::process_vm_readv(::getpid(), &local, 1, &remote, 1, 0));
}

KernelFeature probe_kcmp() {
  const UniqueFd fd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  const pid_t pid = ::getpid();
  return of_call("kcmp", true, "finds descriptors that share a file description",
                 ::syscall(SYS_kcmp, pid, pid, KCMP_FILE, fd.get(), fd.get()));
}

KernelFeature probe_set_tid() {
  // Pid 1 is always taken: who may choose pids gets EEXIST, others EPERM. No process is made either way.
  pid_t wanted = 1;
  struct clone_args args {};
  args.set_tid = reinterpret_cast<uint64_t>(&wanted);
  args.set_tid_size = 1;
  const long result = ::syscall(SYS_clone3, &args, sizeof args);
  if (result == 0) ::_exit(0);
  const bool there = result < 0 && errno == EEXIST;
  return of_call("clone3 set_tid", true, "gives a resumed process its pid", there ? 0 : -1);
}

KernelFeature probe_set_mm() {
  unsigned size = 0;
  return of_call("PR_SET_MM_MAP", true, "gives a resumed process its program and break",
                 ::prctl(PR_SET_MM, PR_SET_MM_MAP_SIZE, &size, 0, 0));
}

KernelFeature probe_timer_ids() {
  return of_call("PR_TIMER_CREATE_RESTORE_IDS", false, "gives POSIX timers their ids at once",
                 ::prctl(kTimerCreateRestoreIds, kTimerCreateRestoreIdsGet, 0, 0, 0));
}

KernelFeature probe_handles() {
  struct {
    file_handle head;
    char bytes[MAX_HANDLE_SZ];
  } handle{};
  handle.head.handle_bytes = MAX_HANDLE_SZ;
  int mount = 0;
  return of_call("name_to_handle_at", false, "finds files that were renamed",
                 ::name_to_handle_at(AT_FDCWD, "/", &handle.head, &mount, 0));
}

KernelFeature probe_fuse() {
  const UniqueFd fd(::open("/dev/fuse", O_RDWR | O_CLOEXEC));
  return of_call("/dev/fuse", true, "mounts the filesystem", fd.get());
}

KernelFeature of_userfault(const char* name, uint64_t feature, const char* purpose) {
  return {name, false, (userfaultfd_features() & feature) == feature, purpose};
}

}  // namespace

std::vector<KernelFeature> probe_kernel() {
  return {
      probe_version(),
      probe_fuse(),
      probe_ptrace_scope(),
      probe_process_vm(),
      probe_pidfd_getfd(),
      probe_kcmp(),
      probe_set_tid(),
      probe_set_mm(),
      of_userfault("userfaultfd write-protection", UFFD_FEATURE_PAGEFAULT_FLAG_WP, "the shortest stop"),
      of_userfault("userfaultfd WP_ASYNC", kFeatureWpAsync, "a short stop without privilege"),
      {"PAGEMAP_SCAN", false, PageScanner::kernel_can_scan(), "finds touched pages fast"},
      probe_timer_ids(),
      probe_handles(),
  };
}

}  // namespace ckpt::tool
