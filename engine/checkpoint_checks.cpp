#include "engine/checkpoint_checks.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <time.h>

#include <array>

#include "engine/apart.h"
#include "engine/base/error.h"
#include "engine/base/record.h"
#include "engine/kernel.h"
#include "engine/kinds/cpu_features.h"
#include "engine/kinds/process_state.h"
#include "engine/process/vfork.h"
#include "engine/resume_family.h"

namespace ckpt {
namespace {

std::string name_of(pid_t pid) {
  try {
    return read_status(pid).name;
  } catch (const Error&) {
    return "?";
  }
}

/// Where injected calls would meet it.
void refuse_seccomp(pid_t pid, int proc_dir, Refusals& refusals) {
  for (const pid_t tid : list_tasks(proc_dir)) {
    int mode = 0;
    try {
      mode = parse_status(read_file(proc_dir, fmt::format("task/{}/status", tid)), tid).seccomp;
    } catch (const Error&) {
      continue;  // it has ended
    }
    if (mode == 0) continue;
    refusals.add({EOPNOTSUPP, fmt::format("{}: thread {} runs under seccomp ({} mode), which wants CAP_SYS_ADMIN to be "
                                          "suspended for a moment",
                                          pid, tid, mode == 1 ? "strict" : "filter")});
  }
}

void refuse_32_bit(pid_t pid, int proc_dir) {
  const UniqueFd exe(::openat(proc_dir, "exe", O_RDONLY | O_CLOEXEC));
  std::array<unsigned char, EI_NIDENT> ident{};
  if (!exe || ::pread(exe.get(), ident.data(), ident.size(), 0) != static_cast<ssize_t>(ident.size())) return;
  if (ident[EI_CLASS] == ELFCLASS32) fail(EOPNOTSUPP, "{}: a 32-bit program cannot be checkpointed", pid);
}

}  // namespace

bool refuse_process(pid_t pid, int proc_dir, const ProcStatus& status, Refusals& refusals) {
  const auto not_supported = [&](std::string_view what) {
    refusals.add({EOPNOTSUPP, fmt::format("{}: {}", pid, what)});
  };
  const size_t before = refusals.count();
  if (pid == ::getpid())
    fail(EINVAL, "{}: this is ckptfs (or ckpt) itself, which cannot take its own checkpoint", pid);
  if (status.tgid != pid) fail(ESRCH, "{}: a thread of process {}, not a process", pid, status.tgid);
  if (status.kernel_thread) fail(EINVAL, "{}: {} is a kernel thread", pid, status.name);
  if (status.state == 'Z' || status.state == 'X') {
    if (status.threads > 1) {
      not_supported("its main thread has ended while others go on, which cannot be checkpointed");
      return false;
    }
    fail(ESRCH, "{}: the process has ended (it is a zombie)", pid);
  }
  // Our own is that of one who was born in the stop.
  if (status.tracer != 0 && status.tracer != static_cast<pid_t>(::syscall(SYS_gettid))) {
    refusals.add({EBUSY, fmt::format("{}: it is traced already, by process {} ({})", pid, status.tracer,
                                     name_of(status.tracer))});
  }
  if (!kernel_has("PTRACE_O_SUSPEND_SECCOMP")) refuse_seccomp(pid, proc_dir, refusals);
  if (status.shadow_stack) not_supported("it uses a shadow stack, which is not supported");
  if (status.address_masking) not_supported("it uses tagged addresses (LAM), which are not supported");
  refusals.collect([&] { refuse_cpu_features(pid, proc_dir); });
  refusals.collect([&] { refuse_process_state(pid, proc_dir); });
  refusals.collect([&] { refuse_32_bit(pid, proc_dir); });
  refuse_namespaces(pid, proc_dir, refusals);
  refuse_unshared_threads(pid, proc_dir, refusals);
  return refusals.count() == before;
}

void refuse_vfork(pid_t pid, int proc_dir, const std::atomic<bool>* cancel) {
  constexpr timespec kMoment = {0, 2'000'000};
  constexpr int kTurns = 500;
  for (int turn = 0;; ++turn) {
    const pid_t tid = thread_in_vfork(proc_dir);
    if (tid == 0) return;
    if (cancel != nullptr && cancel->load()) fail(EINTR, "{}: the checkpoint was cancelled", pid);
    if (turn == kTurns) {
      fail(EBUSY, "{}: thread {} waits in vfork(2) for its child to end or to become another program", pid, tid);
    }
    ::nanosleep(&kMoment, nullptr);
  }
}

namespace {

bool in_vfork(pid_t pid) {
  try {
    return thread_in_vfork(open_proc(pid).get()) != 0;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace

std::map<pid_t, Sharing> sharing_of(const std::vector<pid_t>& pids, bool run, Refusals& refusals) {
  pid_t parent = 0;
  try {
    parent = read_status(pids.front()).ppid;
  } catch (const Error&) {
    // It has ended: others will say so.
  }
  std::vector<pid_t> all = pids;
  if (parent > 0) all.insert(all.begin(), parent);
  std::map<pid_t, Sharing> found = find_sharing(all);
  for (const auto& [pid, sharing] : found) {
    for (const SharingKind& kind : sharing_kinds()) {
      if (parent == 0 || sharing.*kind.owner != parent) continue;
      if (run && kind.owner == &Sharing::memory && (in_vfork(pid) || in_vfork(parent))) continue;
      refusals.add({EOPNOTSUPP, fmt::format("{}: it has its {} in common with process {} ({}), which is outside the process "
                                            "tree; this cannot be checkpointed",
                                            pid, kind.what, parent, name_of(parent))});
    }
  }
  return found;
}

void refuse_family(const std::vector<Relations>& members) {
  try {
    plan_family(members, false, std::to_string(members.front().pid));
  } catch (const Error& e) {
    // Another error comes from relations that have changed while they were looked at.
    if (e.err() == EOPNOTSUPP) throw;
  }
}

namespace {

/// Words of VmFlags (show_smap_vma_flags() in fs/proc/task_mmu.c) that are refused above, kept in the image, or say
/// nothing that must be kept.
constexpr std::string_view kKnownFlags =
    " rd wr ex sh mr mw me ms gd"   // of mmap(2) itself
    " lo lf nr"                     // locked, MAP_NORESERVE
    " sr rr dc dd wf hg nh mg gu"   // madvise(2)
    " dp"                           // MAP_DROPPABLE
    " io pf um uw ui ss sl ht"      // refused
    " ac de sd sf mm nl ar bt "     // the kernel's own notes
    ;

void refuse_unknown_flags(pid_t pid, const Vma& vma) {
  for (const std::string& word : split_words(vma.vm_flags)) {
    if (kKnownFlags.find(" " + word + " ") != std::string_view::npos) continue;
    if (word == "??" && vma.nameless_lock_on_fault()) continue;
    fail(EOPNOTSUPP, "{}: {}: has the flag '{}' (VmFlags in smaps), which this version does not know", pid, vma.name(),
         escape(word));
  }
}

void refuse_mapping(pid_t pid, const Vma& vma) {
  if (vma.special()) return;
  const auto refuse = [&](const char* what) { fail(EOPNOTSUPP, "{}: {}: {}", pid, vma.name(), what); };
  if (vma.path.starts_with("/[aio]")) refuse("asynchronous I/O (io_setup) cannot be checkpointed");
  if (vma.path.starts_with("/secretmem")) refuse("secret memory (memfd_secret) cannot be read");
  if (vma.has_flag("io") || vma.has_flag("pf")) refuse("memory of a device cannot be checkpointed");
  if (vma.has_flag("um") || vma.has_flag("uw") || vma.has_flag("ui")) {
    refuse("memory registered with a userfaultfd of the process cannot be checkpointed");
  }
  if (vma.has_flag("ss")) refuse("a shadow stack cannot be checkpointed");
  if (vma.has_flag("sl")) refuse("a sealed mapping (mseal) cannot be checkpointed");
  if (vma.has_flag("ht")) refuse("huge pages of hugetlbfs cannot be checkpointed");
  refuse_unknown_flags(pid, vma);
  // "anon_inode:[perf_event]", "socket:[123]": a file that has no path.
  if (vma.inode != 0 && !vma.path.starts_with('/')) refuse("a mapping of this kind cannot be checkpointed");
}

}  // namespace

bool refuse_mappings(pid_t pid, const std::vector<Vma>& vmas, Refusals& refusals) {
  bool good = true;
  for (const Vma& vma : vmas) good &= refusals.collect([&] { refuse_mapping(pid, vma); });
  return good;
}

}  // namespace ckpt
