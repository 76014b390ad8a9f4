// Making an address space again, with system calls of the stub.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <optional>

#include "engine/base/error.h"
#include "engine/kinds/memory_object.h"
#include "engine/kinds/sysv_shm.h"
#include "engine/memory/kernel_abi.h"
#include "engine/memory/layout.h"

#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#endif
#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08
#endif

namespace ckpt {

namespace {

/// End of the lower half of the address space with four levels of page tables: the stub, which asks for nothing
/// higher, lies below it.
constexpr uint64_t kLowerEnd = 0x7ffffffff000;
constexpr uint64_t kMargin = 2 << 20;

std::vector<Vma> stub_vmas(const Stub& stub) {
  const std::string path = fmt::format("/proc/{}/maps", stub.pid());
  auto vmas = parse_maps(read_file(path), path);
  std::erase_if(vmas, [](const Vma& vma) { return vma.path == "[vsyscall]" || vma.path == "[uprobes]"; });
  return vmas;
}

/// The middle of the first gap of both tables that takes `size` with a margin on each side (a stack may grow).
RemotePtr find_hole(const std::vector<Vma>& a, const std::vector<Vma>& b, uint64_t size) {
  std::vector<Range> used;
  for (const auto* vmas : {&a, &b}) {
    for (const Vma& vma : *vmas) used.push_back({vma.start, vma.end});
  }
  std::sort(used.begin(), used.end());
  uint64_t at = kMargin;
  for (const Range& range : used) {
    if (range.start > at && range.start - at >= size + 2 * kMargin) break;
    at = std::max(at, range.end);
  }
  if (at + size + 2 * kMargin > kLowerEnd) fail(ENOMEM, "the address space of the image has no hole to work in");
  return RemotePtr{at + kMargin};
}

/// Unmaps [start, end) but the ranges in `keep` (ascending).
void unmap_all_but(Remote& leader, std::vector<Range> keep, uint64_t end) {
  std::sort(keep.begin(), keep.end());
  uint64_t at = 0;
  for (const Range& range : keep) {
    if (range.start > at) leader.call("munmap", SYS_munmap, at, range.start - at);
    at = std::max(at, range.end);
  }
  if (end > at) leader.call("munmap", SYS_munmap, at, end - at);
}

// ---- mappings ---------------------------------------------------------------------------------------------------

uint64_t map_flags(const Vma& vma) {
  uint64_t flags = MAP_FIXED_NOREPLACE;
  if (vma.has_flag("dp")) {
    flags |= MAP_DROPPABLE;
  } else {
    flags |= vma.shared ? MAP_SHARED : MAP_PRIVATE;
  }
  if (vma.inode == 0) flags |= MAP_ANONYMOUS;
  if (vma.has_flag("gd") || vma.path == "[stack]") flags |= MAP_GROWSDOWN;
  if (vma.has_flag("nr")) flags |= MAP_NORESERVE;
  return flags;
}

/// System calls that are made all at once, each with what is to be said of its result.
class Calls {
 public:
  using Check = std::function<void(long result)>;
  void add(const SystemCall& call, Check check) {
    calls_.push_back(call);
    checks_.push_back(std::move(check));
  }
  void run(Remote& leader) {
    const std::vector<long> results = leader.run_all(calls_);
    for (size_t i = 0; i < results.size(); ++i) checks_[i](results[i]);
  }

 private:
  std::vector<SystemCall> calls_;
  std::vector<Check> checks_;
};

void advise(Calls& calls, pid_t pid, const Vma& vma) {
  constexpr std::pair<const char*, int> kAdvice[] = {
      {"dc", MADV_DONTFORK}, {"dd", MADV_DONTDUMP},  {"wf", MADV_WIPEONFORK}, {"hg", MADV_HUGEPAGE},
      {"nh", MADV_NOHUGEPAGE}, {"mg", MADV_MERGEABLE}, {"sr", MADV_SEQUENTIAL}, {"rr", MADV_RANDOM},
  };
  if (vma.vm_flags.empty() || vma.has_flag("dp")) return;     // MAP_DROPPABLE implies what it needs
  for (const auto& [flag, number] : kAdvice) {
    if (!vma.has_flag(flag)) continue;
    const int advice = number;  // clang 14 captures no structured binding
    // A kernel without huge pages or KSM says EINVAL: the hint is worth nothing there.
    const bool hint = std::string_view("hg nh mg").find(flag) != std::string_view::npos;
    calls.add({SYS_madvise, {vma.start, vma.size(), static_cast<uint64_t>(advice)}}, [pid, &vma, advice, hint](long r) {
      if (r >= 0 || (hint && r == -EINVAL)) return;
      fail(static_cast<int>(-r), "{}: {}: madvise({}): {}", pid, vma.name(), advice, errno_text(static_cast<int>(-r)));
    });
  }
}

void name_anonymous(Remote& leader, const Vma& vma) {
  for (const std::string_view prefix : {"[anon:", "[anon_shmem:"}) {
    if (!vma.path.starts_with(prefix) || !vma.path.ends_with(']')) continue;
    const std::string name = vma.path.substr(prefix.size(), vma.path.size() - prefix.size() - 1);
    // Only for the reader of maps; a kernel without it does without.
    leader.syscall(SYS_prctl, abi::kPrSetVma, abi::kPrSetVmaAnonName, vma.start, vma.size(), leader.put_string(name).addr);
  }
}

void map_one(Calls& calls, pid_t pid, const Vma& vma, int remote_fd) {
  const SystemCall call = {SYS_mmap, {vma.start, vma.size(), static_cast<uint64_t>(vma.prot), map_flags(vma),
                                      static_cast<uint64_t>(static_cast<int64_t>(remote_fd)), vma.offset}};
  calls.add(call, [pid, &vma](long at) {
    if (at < 0 && at > -4096) {
      fail(static_cast<int>(-at), "{}: {}: mmap: {}", pid, vma.name(), errno_text(static_cast<int>(-at)));
    }
    if (static_cast<uint64_t>(at) != vma.start) fail(EEXIST, "{}: {}: the address is taken", pid, vma.name());
  });
}

void protect(Calls& calls, pid_t pid, const Vma& vma) {
  calls.add({SYS_mprotect, {vma.start, vma.size(), static_cast<uint64_t>(vma.prot)}}, [pid, &vma](long r) {
    if (r < 0) fail(static_cast<int>(-r), "{}: {}: mprotect: {}", pid, vma.name(), errno_text(static_cast<int>(-r)));
  });
}

/// Whether it is made from a descriptor.
bool maps_file(const Vma& vma) { return !vma.special() && vma.inode != 0 && !attaches_segment(vma); }

/// Passes each file once; returns local descriptor -> number in the stub.
std::map<int, int> give_files(Stub& stub, const Layout& layout, const LayoutFiles& files, const Inheritance& inherited) {
  std::map<int, int> remote;
  for (size_t i = 0; i < layout.vmas.size(); ++i) {
    const Vma& vma = layout.vmas[i];
    if (maps_file(vma) && !inherited.has(i)) remote.emplace(files.descriptor(vma), -1);
  }
  std::vector<int> local;
  for (const auto& [fd, number] : remote) local.push_back(fd);
  const std::vector<int> numbers = stub.give(local);
  for (size_t i = 0; i < local.size(); ++i) remote[local[i]] = numbers[i];
  return remote;
}

}  // namespace

LayoutFiles::LayoutFiles(const RestoreContext& ctx, const Layout& layout) : named_(ctx, layout.vmas) {
  for (const Vma& vma : layout.vmas) {
    if (vma.special() || vma.inode == 0) continue;
    if (vma.unnamed_file()) {
      const std::string name = memory_object_name(vma.dev_major, vma.dev_minor, vma.inode);
      if (attaches_segment(vma)) check_attachment(memory_object_record(ctx, name), vma);
      if (!objects_.contains(name)) objects_.emplace(name, restore_memory_object(ctx, name));
    }
    // The code of the program itself: normally the executable is mapped. A shared mapping of it would be open for
    // writing, which the kernel does not take for an executable.
    if (exe_ < 0 && vma.path == layout.exe && !needs_write_access(vma)) exe_ = descriptor(vma);
  }
  if (exe_ < 0) {
    Record record = Record::parse("", layout.where + ": exe");
    own_exe_ = open_in_root(ctx, record, layout.exe, O_RDONLY | O_NONBLOCK);
    exe_ = own_exe_.get();
  }
}

int LayoutFiles::descriptor(const Vma& vma) const {
  if (vma.inode == 0) return -1;
  if (!vma.unnamed_file()) return named_.descriptor(vma);
  return objects_.at(memory_object_name(vma.dev_major, vma.dev_minor, vma.inode));
}

void build_layout(Stub& stub, const Layout& layout, const LayoutFiles& files, const Inheritance& inherited) {
  Remote& leader = stub.leader();
  const std::vector<Vma> own = stub_vmas(stub);
  const RemotePtr hole = find_hole(own, layout.vmas, Stub::kHelperSize + VdsoMove::kRoom);
  stub.use_helper(hole);
  const std::vector<Vma> group = vdso_group(own);
  std::vector<Range> keep = {{hole.addr, hole.addr + Stub::kHelperSize}};
  for (const Vma& vma : group) keep.push_back({vma.start, vma.end});
  for (size_t i = 0; i < layout.vmas.size(); ++i) {
    if (inherited.has(i)) keep.push_back({layout.vmas[i].start, layout.vmas[i].end});
  }
  unmap_all_but(leader, keep, kLowerEnd);
  std::optional<VdsoMove> vdso;
  if (!inherited.any()) vdso.emplace(stub, layout.vdso, group, hole + Stub::kHelperSize);  // or it is in its place
  if (layout.thp_disable != 0) {
    // The flags beyond bit 0 came with Linux 6.18 (PR_THP_DISABLE_EXCEPT_ADVISED).
    leader.call("prctl(PR_SET_THP_DISABLE)", SYS_prctl, PR_SET_THP_DISABLE, 1, layout.thp_disable & ~uint64_t{1});
  } else {
    leader.syscall(SYS_prctl, PR_SET_THP_DISABLE, 0);
  }
  begin_memory_marks(leader, layout.marks, layout.vmas);
  attach_segments(leader, layout.vmas);
  const std::map<int, int> remote = give_files(stub, layout, files, inherited);
  Calls calls;
  for (size_t i = 0; i < layout.vmas.size(); ++i) {
    const Vma& vma = layout.vmas[i];
    if (inherited.has(i) && inherited.protect[i]) protect(calls, leader.pid(), vma);
    if (vma.special() || inherited.has(i)) continue;
    if (!attaches_segment(vma)) map_one(calls, leader.pid(), vma, vma.inode == 0 ? -1 : remote.at(files.descriptor(vma)));
    advise(calls, leader.pid(), vma);
  }
  calls.run(leader);
  for (const Vma& vma : layout.vmas) name_anonymous(leader, vma);
  apply_protection_keys(leader, layout.marks, layout.vmas);
  if (vdso) vdso->finish();
  Calls closes;
  for (const auto& [local, number] : remote) {
    closes.add({SYS_close, {static_cast<uint64_t>(number)}}, [pid = leader.pid()](long r) {
      if (r < 0) fail(static_cast<int>(-r), "{}: close in the process: {}", pid, errno_text(static_cast<int>(-r)));
    });
  }
  closes.run(leader);
}

void finish_layout(Stub& stub, const Layout& layout, const LayoutFiles& files) {
  Remote& leader = stub.leader();
  apply_mm_settings(leader, layout.settings);  // a copy would have them too
  install_guards(leader, layout.marks);
  for (const Vma& vma : layout.vmas) {
    if (!vma.has_flag("lo") || vma.special()) continue;
    const uint64_t on_fault = vma.locked_on_fault() ? MLOCK_ONFAULT : 0;
    const long r = leader.syscall(SYS_mlock2, vma.start, vma.size(), on_fault);
    // Memory that may not be read, or is guarded, is locked, but cannot be brought in: ENOMEM says so (mm/mlock.c).
    const bool unreadable = (vma.prot & PROT_READ) == 0 || layout.marks.guarded(vma);
    if (r < 0 && !(r == -ENOMEM && unreadable)) {
      fail(static_cast<int>(-r), "{}: {}: mlock: {}", stub.pid(), vma.name(), errno_text(static_cast<int>(-r)));
    }
  }
  const int exe = stub.give(files.exe());
  const RemotePtr auxv = leader.scratch() + 1024;
  leader.write(auxv, std::as_bytes(std::span(layout.auxv)));
  const Layout::MmFields& f = layout.fields;
  prctl_mm_map map = {};
  map.start_code = f.start_code;
  map.end_code = f.end_code;
  map.start_data = f.start_data;
  map.end_data = f.end_data;
  map.start_brk = f.start_brk;
  map.brk = f.brk;
  map.start_stack = f.start_stack;
  map.arg_start = f.arg_start;
  map.arg_end = f.arg_end;
  map.env_start = f.env_start;
  map.env_end = f.env_end;
  map.auxv = reinterpret_cast<__u64*>(auxv.addr);
  map.auxv_size = static_cast<__u32>(layout.auxv.size());
  map.exe_fd = static_cast<__u32>(exe);
  const long r = leader.syscall(SYS_prctl, PR_SET_MM, PR_SET_MM_MAP, leader.put(map).addr, sizeof(map));
  if (r < 0) {
    const int err = static_cast<int>(-r);
    if (err == EACCES) fail(err, "{}: {} may not be executed: {}", layout.where, layout.exe, errno_text(err));
    fail(err, "{}: program, arguments and heap of the process (PR_SET_MM_MAP, exe {}): {}", layout.where, layout.exe,
         errno_text(err));
  }
  leader.call("close", SYS_close, static_cast<uint64_t>(exe));
}

void restrict_layout(Stub& stub, const Layout& layout) {
  lock_future_memory(stub.leader(), layout.marks);
  if (layout.mdwe != 0) stub.leader().call("prctl(PR_SET_MDWE)", SYS_prctl, PR_SET_MDWE, layout.mdwe);
}

}  // namespace ckpt
