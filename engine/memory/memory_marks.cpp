#include "engine/memory/memory_marks.h"

#include <sys/mman.h>
#include <sys/syscall.h>

#include <algorithm>

#include "engine/base/error.h"
#include "engine/kinds/registers.h"
#include "engine/memory/kernel_abi.h"
#include "engine/memory/own_maps.h"
#include "engine/memory/page_scan.h"
#include "engine/process/proc_status.h"
#include "engine/process/procfs.h"
#include "engine/process/told_remote.h"

namespace ckpt {
namespace {

constexpr unsigned kKeys = 16;
constexpr size_t kMaxGuards = 1 << 20;

// ---- guard regions ----

/// Whether this kernel has them, and whether VmFlags tell of them ("gu").
enum class GuardSupport { none, hidden, shown };

GuardSupport guard_support() {
  static const GuardSupport support = [] {
    void* page = ::mmap(nullptr, kPageSize, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) return GuardSupport::hidden;
    GuardSupport found = GuardSupport::none;
    if (::madvise(page, kPageSize, abi::kMadvGuardInstall) == 0) {
      found = GuardSupport::hidden;
      const auto address = reinterpret_cast<uint64_t>(page);
      for (const Vma& vma : read_own_maps("/proc/self/smaps")) {
        if (vma.start <= address && address < vma.end && vma.has_flag("gu")) found = GuardSupport::shown;
      }
    }
    ::munmap(page, kPageSize);
    return found;
  }();
  return support;
}

void capture_guards(const CaptureContext& ctx, const std::vector<Vma>& vmas, Record& out) {
  const GuardSupport support = guard_support();
  if (support == GuardSupport::none) return;
  const PageScanner scanner(ctx.pid);
  for (const Vma& vma : vmas) {
    // A mapping whose flags are not known yet has come only now.
    if (vma.special() || (support == GuardSupport::shown && !vma.vm_flags.empty() && !vma.has_flag("gu"))) continue;
    for (const Range& range : scanner.guards({vma.start, vma.end})) out.add("guard", range_name(range));
  }
}

// ---- protection keys ----

/// pkey_mprotect(2) of an address where nothing is: EINVAL for a key that is not allocated, before the ENOMEM for the
/// address (mm/mprotect.c, do_mprotect_pkey). Nothing is changed.
Question is_allocated(unsigned key) {
  return {"pkey_mprotect", SYS_pkey_mprotect, {0, kPageSize, PROT_NONE, key}};
}
constexpr long kAllocated = -ENOMEM;

constexpr Question kMergeAny{"prctl(PR_GET_MEMORY_MERGE)", SYS_prctl, {abi::kPrGetMemoryMerge}};

/// Whether a key was ever put to use: a mapping has one, or a thread has other rights than a program begins with
/// (init_pkru_value in arch/x86/mm/pkeys.c).
bool keys_in_use(const CaptureContext& ctx, const std::vector<Vma>& vmas) {
  static constexpr uint32_t kRightsAtStart = 0x55555554;
  const auto has_key = [](const Vma& vma) { return vma.protection_key != 0; };
  if (std::any_of(vmas.begin(), vmas.end(), has_key)) return true;
  const std::vector<pid_t> tids = list_tasks(ctx.proc_dir);
  return std::any_of(tids.begin(), tids.end(), [](pid_t tid) { return key_rights(tid) != kRightsAtStart; });
}

/// The kernel gives out the lowest free key (mm_pkey_alloc in arch/x86/include/asm/pkeys.h), so that one probe tells of
/// most processes that they have none.
uint64_t allocated_keys(const CaptureContext& ctx, const std::vector<Vma>& vmas, const Questions& answers) {
  if (!key_rights(ctx.pid)) return 0;
  if (answers.result(is_allocated(1)) != kAllocated && !keys_in_use(ctx, vmas)) return 0;
  Questions all;
  for (unsigned key = 1; key < kKeys; ++key) all.ask(is_allocated(key));
  all.put_to(*ctx.leader);
  uint64_t keys = 0;
  for (unsigned key = 1; key < kKeys; ++key) {
    if (all.result(is_allocated(key)) == kAllocated) keys |= uint64_t{1} << key;
  }
  return keys;
}

/// A key that the kernel has chosen itself, for memory that may only be executed.
bool chosen_by_kernel(const Vma& vma, uint64_t pkeys) {
  return vma.prot == PROT_EXEC && (pkeys >> vma.protection_key & 1) == 0;
}

/// Keys that must be had while mappings are made: a mapping may have one that has been freed since.
uint64_t wanted_keys(const MemoryMarks& marks, const std::vector<Vma>& vmas) {
  uint64_t keys = marks.pkeys;
  for (const Vma& vma : vmas) {
    if (vma.protection_key != 0 && !chosen_by_kernel(vma, marks.pkeys)) keys |= uint64_t{1} << vma.protection_key;
  }
  return keys;
}

void free_keys(Remote& leader, uint64_t keys) {
  for (unsigned key = 1; key < kKeys; ++key) {
    if (keys >> key & 1) leader.call("pkey_free", SYS_pkey_free, key);
  }
}

// ---- memory to come ----

/// A page in the middle of the largest hole: no stack grows there, no heap.
uint64_t free_page(const std::vector<Vma>& vmas) {
  uint64_t best = 0, size = 0;
  for (size_t i = 1; i < vmas.size(); ++i) {
    const uint64_t gap = vmas[i].start - vmas[i - 1].end;
    if (vmas[i].end > kTaskSizeMax || gap <= size) continue;
    size = gap;
    best = vmas[i - 1].end + gap / 2 / kPageSize * kPageSize;
  }
  return best;
}

/// Only a new mapping shows it: it is locked, and brought in at once unless MCL_ONFAULT was given. msync(MS_INVALIDATE)
/// fails with EBUSY for locked memory, and does nothing else to memory of no file (mm/msync.c).
uint64_t future_lock(const CaptureContext& ctx, const std::vector<Vma>& vmas) {
  Remote& leader = *ctx.leader;
  const uint64_t page = free_page(vmas);
  if (page == 0) return 0;
  const RemotePtr present = leader.scratch();
  const std::array<SystemCall, 4> calls = {{
      {SYS_mmap, {page, kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, ~uint64_t{0}}},
      {SYS_msync, {page, kPageSize, MS_ASYNC | MS_INVALIDATE}},
      {SYS_mincore, {page, kPageSize, present.addr}},
      {SYS_munmap, {page, kPageSize}},
  }};
  leader.on_our_death({calls[3]});
  const std::vector<long> results = leader.run_all(calls);
  leader.on_our_death({});
  // Beyond RLIMIT_MEMLOCK: whether on fault or not, nothing can be mapped any more.
  if (results[0] == -EAGAIN) return 1;
  if (results[0] != static_cast<long>(page) || results[1] != -EBUSY || results[2] != 0) return 0;
  return (leader.get<uint8_t>(present) & 1) != 0 ? 1 : 2;
}

}  // namespace

void probe_memory_marks() { guard_support(); }

void ask_memory_marks(const CaptureContext& ctx, Questions& questions) {
  questions.ask(kMergeAny);
  if (key_rights(ctx.pid)) questions.ask(is_allocated(1));
}

void capture_memory_marks(const CaptureContext& ctx, const std::vector<Vma>& vmas, const Questions& answers, Record& out) {
  capture_guards(ctx, vmas, out);
  if (const uint64_t keys = allocated_keys(ctx, vmas, answers); keys != 0) out.add_hex("pkeys", keys);
  const auto* const told = dynamic_cast<const ToldRemote*>(ctx.leader);
  const uint64_t lock = told != nullptr ? told->future_lock() : future_lock(ctx, vmas);
  if (lock != 0) out.add("lock_future", lock);
  if (answers.result(kMergeAny) > 0) out.add("merge_any", 1);
}

bool MemoryMarks::guarded(const Vma& vma) const {
  return std::any_of(guards.begin(), guards.end(),
                     [&](const Range& range) { return range.start < vma.end && vma.start < range.end; });
}

MemoryMarks parse_memory_marks(const Record& mm) {
  MemoryMarks marks;
  for (const std::string& text : mm.all("guard")) {
    if (marks.guards.size() == kMaxGuards) fail(EINVAL, "{}: too many guard regions", mm.where());
    marks.guards.push_back(parse_range_name(text, mm.where()));
  }
  marks.pkeys = mm.get_u64_or("pkeys", 0);
  if ((marks.pkeys & ~uint64_t{0xfffe}) != 0) fail(EINVAL, "{}: pkeys {:#x} is no set of keys", mm.where(), marks.pkeys);
  marks.lock_future = mm.get_u64_or("lock_future", 0);
  marks.merge_any = mm.get_u64_or("merge_any", 0) != 0;
  return marks;
}

void begin_memory_marks(Remote& leader, const MemoryMarks& marks, const std::vector<Vma>& vmas) {
  // A hint: a kernel without KSM does without.
  if (marks.merge_any) leader.syscall(SYS_prctl, abi::kPrSetMemoryMerge, 1);
  const uint64_t wanted = wanted_keys(marks, vmas);
  uint64_t had = 0;
  while ((wanted & ~had) != 0) {
    const long key = leader.syscall(SYS_pkey_alloc, 0, 0);
    if (key < 0) {
      fail(EOPNOTSUPP, "{}: protection keys (pkey_alloc): {}", leader.pid(), errno_text(static_cast<int>(-key)));
    }
    had |= uint64_t{1} << key;
  }
  free_keys(leader, had & ~wanted);
}

void apply_protection_keys(Remote& leader, const MemoryMarks& marks, const std::vector<Vma>& vmas) {
  for (const Vma& vma : vmas) {
    if (vma.special() || vma.protection_key == 0 || chosen_by_kernel(vma, marks.pkeys)) continue;
    leader.call("pkey_mprotect", SYS_pkey_mprotect, vma.start, vma.size(), vma.prot, vma.protection_key);
  }
  free_keys(leader, wanted_keys(marks, vmas) & ~marks.pkeys);
}

void install_guards(Remote& leader, const MemoryMarks& marks) {
  for (const Range& range : marks.guards) {
    const long r = leader.syscall(SYS_madvise, range.start, range.size(), abi::kMadvGuardInstall);
    if (r < 0) {
      fail(r == -EINVAL ? EOPNOTSUPP : static_cast<int>(-r), "{}: guard region {} (Linux 6.13 or newer): {}",
           leader.pid(), range_name(range), errno_text(static_cast<int>(-r)));
    }
  }
}

void lock_future_memory(Remote& leader, const MemoryMarks& marks) {
  if (marks.lock_future == 0) return;
  const uint64_t flags = MCL_FUTURE | (marks.lock_future == 2 ? MCL_ONFAULT : 0);
  leader.call("mlockall(MCL_FUTURE)", SYS_mlockall, flags);
}

}  // namespace ckpt
