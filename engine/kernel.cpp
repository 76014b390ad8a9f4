#include "engine/kernel.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/kcmp.h>
#include <linux/userfaultfd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "engine/base/error.h"
#include "engine/base/fd.h"
#include "engine/kinds/peer_hold.h"
#include "engine/kinds/sock_diag.h"
#include "engine/memory/kernel_abi.h"
#include "engine/memory/page_scan.h"
#include "engine/memory/userfault.h"
#include "engine/module.h"
#include "engine/module.h"
#include "engine/process/procfs.h"
#include "engine/process/tracee.h"

namespace ckpt {
namespace {

// Beyond Debian 12's headers (Linux 6.1).
constexpr int kTimerCreateRestoreIds = 77, kTimerCreateRestoreIdsGet = 2;

bool have_capability(int cap) { return (read_status(::getpid()).cap_effective >> cap & 1) != 0; }

bool probe_user_mode_only() {
  return static_cast<bool>(
      UniqueFd(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | kUffdUserModeOnly))));
}

UniqueFd own_pidfd() { return UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0))); }

bool probe_pidfd_getfd() {
  const UniqueFd pidfd = own_pidfd();
  return pidfd && UniqueFd(static_cast<int>(::syscall(SYS_pidfd_getfd, pidfd.get(), pidfd.get(), 0)));
}

bool probe_kcmp() {
  const UniqueFd fd = own_pidfd();
  return fd && ::syscall(SYS_kcmp, ::getpid(), ::getpid(), KCMP_FILE, fd.get(), fd.get()) == 0;
}

bool probe_set_tid() {
  // Arguments too small to be any version of clone_args: EINVAL from a kernel that has the call.
  if (::syscall(SYS_clone3, nullptr, 0) == -1 && errno == ENOSYS) return false;
  return have_capability(CAP_CHECKPOINT_RESTORE) || have_capability(CAP_SYS_ADMIN);
}

/// What `ask` says of a child of ours that is traced and stopped; false where we may not trace at all.
bool ask_stopped_child(bool (*ask)(const Tracee&)) {
  const pid_t parent = ::getpid();
  const pid_t child = ::fork();
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(1);   // it has died before that
    for (;;) ::pause();
  }
  bool answer = false;
  try {
    Tracee tracee(child, child);
    tracee.interrupt();
    answer = tracee.wait_stop(std::chrono::steady_clock::now() + std::chrono::seconds(2)) && tracee.stopped() &&
             ask(tracee);
  } catch (const Error&) {
    // Then this is not to be had either.
  }
  if (child > 0) {
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
  }
  return answer;
}

bool probe_rseq_configuration() {
  return ask_stopped_child([](const Tracee& child) { return child.rseq().has_value(); });
}

bool probe_suspend_seccomp() {
  return ask_stopped_child([](const Tracee& child) { return child.suspend_seccomp(true); });
}

bool probe_timer_ids() { return ::prctl(kTimerCreateRestoreIds, kTimerCreateRestoreIdsGet, 0, 0, 0) >= 0; }

bool probe_unix_diag() {
  try {
    list_unix_sockets();
  } catch (const Error&) {
    return false;
  }
  return true;
}

bool probe_tcp_repair() {
  const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  return fd && ::setsockopt(fd.get(), IPPROTO_TCP, TCP_REPAIR, &on, sizeof on) == 0;
}

bool probe_file_handles() {
  file_handle handle{};
  int mount = 0;
  // EOVERFLOW tells the size that a handle needs here; EOPNOTSUPP would still be a kernel that has the call.
  return ::name_to_handle_at(AT_FDCWD, "/", &handle, &mount, 0) == 0 || errno == EOVERFLOW ||
         errno == EOPNOTSUPP;
}

bool probe_mm_map() {
  unsigned size = 0;
  return ::prctl(PR_SET_MM, PR_SET_MM_MAP_SIZE, &size, 0, 0) == 0;
}

bool probe_map_files() {
  for (const Mapping& m : parse_mappings(read_file("/proc/self/maps"))) {
    if (m.inode == 0) continue;
    const std::string path = fmt::format("/proc/self/map_files/{:x}-{:x}", m.start, m.end);
    return static_cast<bool>(UniqueFd(::open(path.c_str(), O_RDONLY | O_CLOEXEC)));
  }
  return false;
}

uint64_t probe_user_space_end() {
  constexpr uint64_t kPage = 4096, kFourLevels = uint64_t{1} << 47, kFiveLevels = uint64_t{1} << 56;
  void* const wanted = reinterpret_cast<void*>(kFourLevels);
  void* const at = ::mmap(wanted, kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  // ENOMEM: beyond the end. EEXIST: somebody has mapped it.
  if (at == MAP_FAILED) return (errno == EEXIST ? kFiveLevels : kFourLevels) - kPage;
  ::munmap(at, kPage);
  return (at == wanted ? kFiveLevels : kFourLevels) - kPage;
}

/// Whether fdinfo of an eventfd tells its number and whether it is a semaphore.
bool probe_eventfd_semaphore() {
  const UniqueFd fd(::eventfd(0, EFD_CLOEXEC));
  return fd && read_file(fmt::format("/proc/self/fdinfo/{}", fd.get())).find("eventfd-semaphore:") != std::string::npos;
}

std::vector<KernelFeature> probe() {
  const uint64_t uffd = userfaultfd_features();
  const auto offers = [uffd](uint64_t feature) { return (uffd & feature) != 0; };
  const char* const child = "a copy-on-write child is the snapshot";
  return {
      {"CAP_SYS_PTRACE", have_capability(CAP_SYS_PTRACE), "2.2", "processes of every user", "one's own processes only"},
      {"pidfd_getfd", probe_pidfd_getfd(), "5.6", "descriptors of the process", "no checkpoint"},
      {"kcmp", probe_kcmp(), "3.5", "descriptors that share a file description", "no checkpoint of what may be shared"},
      {"PTRACE_GET_RSEQ_CONFIGURATION", probe_rseq_configuration(), "5.13", "restartable sequences",
       "a thread's sequence is forgotten"},
      {"PTRACE_O_SUSPEND_SECCOMP", probe_suspend_seccomp(), "4.3",
       "processes under seccomp (CAP_SYS_ADMIN, and not under seccomp ourselves)", "they are refused"},
      {"userfaultfd", uffd != 0, "4.3", "short stops, fast resumes", "a copy-on-write child, and pages are written one by one"},
      {"UFFD_FEATURE_PAGEFAULT_FLAG_WP", offers(UFFD_FEATURE_PAGEFAULT_FLAG_WP), "5.7", "snapshots by write-protection",
       child},
      {"UFFD_FEATURE_WP_UNPOPULATED", offers(abi::kUffdFeatureWpUnpopulated), "6.4", "write-protection of holes", child},
      {"UFFD_FEATURE_WP_ASYNC", offers(abi::kUffdFeatureWpAsync), "6.7", "checkpoints of what was written since the last one",
       "everything is read each time"},
      {"UFFD_USER_MODE_ONLY", probe_user_mode_only(), "5.11", "resumes through userfaultfd without privilege",
       "pages are written by process_vm_writev"},
      {"PAGEMAP_SCAN", PageScanner::kernel_can_scan(), "6.7", "finding touched pages, snapshots by write-protection",
       "pagemap is read, three times slower; " + std::string(child)},
      {"ckpt module", module_serves(), "6.1", "snapshots by the kernel, ckpt(4)", "userfaultfd or a copy-on-write child"},
      {"unix_diag", probe_unix_diag(), "3.3", "Unix sockets", "they are refused"},
      {"TCP_REPAIR", probe_tcp_repair(), "3.5", "TCP connections (CAP_NET_ADMIN)", "they are refused"},
      {"nf_tables", can_hold_peers(), "5.12",
       "TCP connections to outside of processes that end with the checkpoint (CAP_NET_ADMIN)", "they are refused then"},
      {"eventfd-semaphore", probe_eventfd_semaphore(), "6.5", "eventfds that a process outside has too", "they are refused"},
      {"map_files", probe_map_files(), "3.3", "shared and deleted mapped files (CAP_CHECKPOINT_RESTORE)",
       "they are refused"},
      {"name_to_handle_at", probe_file_handles(), "2.6.39", "finding renamed files again", "files are found by name only"},
      {"clone3 set_tid", probe_set_tid(), "5.5", "resuming under the old pid (CAP_CHECKPOINT_RESTORE)", "no resume"},
      {"PR_SET_MM_MAP", probe_mm_map(), "3.18", "heap, arguments and exe link of a resumed process", "no resume"},
      {"PR_TIMER_CREATE_RESTORE_IDS", probe_timer_ids(), "6.15", "POSIX timers under their old ids",
       "timers are made until the id comes"},
  };
}

}  // namespace

const std::vector<KernelFeature>& kernel_features() {
  static const std::vector<KernelFeature> features = probe();
  return features;
}

uint64_t user_space_end() {
  static const uint64_t end = probe_user_space_end();
  return end;
}

bool kernel_has(std::string_view name) {
  const auto& all = kernel_features();
  const auto it =
      std::find_if(all.begin(), all.end(), [name](const KernelFeature& f) { return f.name == name; });
  if (it == all.end()) fail(EINVAL, "'{}' is not in the table of kernel features", name);
  return it->available;
}

}  // namespace ckpt
