// Capture of an address space's description, and its parsing.
#include "engine/memory/layout.h"

#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>

#include "engine/base/error.h"
#include "engine/image/digest.h"
#include "engine/kinds/memory_object.h"

#ifndef PR_GET_MDWE
#define PR_GET_MDWE 66
#endif

namespace ckpt {

namespace {

constexpr std::array kKeptFlags = {"gd", "mw", "nr", "lo", "lf", "dc", "dd", "wf", "hg", "nh", "mg", "sr", "rr", "dp"};

/// What cannot be mapped again, by its VmFlags (Documentation/filesystems/proc.rst).
constexpr std::pair<const char*, const char*> kRefusedFlags[] = {
    {"io", "device memory cannot be checkpointed"},
    {"pf", "device memory cannot be checkpointed"},
    {"ht", "huge pages of hugetlbfs cannot be checkpointed"},
    {"ss", "a shadow stack cannot be checkpointed"},
    {"sl", "a sealed mapping (mseal) cannot be checkpointed"},
    {"um", "memory watched by userfaultfd cannot be checkpointed"},
    {"uw", "memory watched by userfaultfd cannot be checkpointed"},
    {"ui", "memory watched by userfaultfd cannot be checkpointed"},
};

struct MmField {
  const char* name;
  uint64_t Layout::MmFields::*member;
  int stat_field;                // of /proc/PID/stat, counted from 1; 0: not there
};

constexpr MmField kFields[] = {
    {"start_code", &Layout::MmFields::start_code, 26}, {"end_code", &Layout::MmFields::end_code, 27},
    {"start_data", &Layout::MmFields::start_data, 45}, {"end_data", &Layout::MmFields::end_data, 46},
    {"start_brk", &Layout::MmFields::start_brk, 47},   {"brk", &Layout::MmFields::brk, 0},
    {"start_stack", &Layout::MmFields::start_stack, 28}, {"arg_start", &Layout::MmFields::arg_start, 48},
    {"arg_end", &Layout::MmFields::arg_end, 49},       {"env_start", &Layout::MmFields::env_start, 50},
    {"env_end", &Layout::MmFields::env_end, 51},
};

const Vma* find_vdso(const std::vector<Vma>& vmas) {
  for (const Vma& vma : vmas) {
    if (vma.path == "[vdso]") return &vma;
  }
  return nullptr;
}

Layout::MmFields read_fields(const CaptureContext& ctx) {
  const std::string stat = read_file(ctx.proc_dir, "stat");
  // The command name may hold anything; what follows its ')' are fields 3 and up.
  const auto words = split_words(std::string_view(stat).substr(std::min(stat.rfind(')') + 1, stat.size())));
  Layout::MmFields fields;
  for (const MmField& f : kFields) {
    if (f.stat_field == 0) continue;
    const auto index = static_cast<size_t>(f.stat_field - 3);
    if (index >= words.size()) fail(EIO, "/proc/{}/stat: field {} is missing", ctx.pid, f.stat_field);
    std::string word = words[index];
    while (!word.empty() && word.back() == '\n') word.pop_back();
    const auto value = parse_u64(word);
    if (!value) fail(EIO, "/proc/{}/stat: field {} is no number", ctx.pid, f.stat_field);
    fields.*f.member = *value;
  }
  fields.brk = static_cast<uint64_t>(ctx.leader->syscall(SYS_brk, 0));
  return fields;
}

std::string kept_flags(const Vma& vma) {
  std::string words;
  for (const char* flag : kKeptFlags) {
    // Every private mapping may be made writable: nothing to be told.
    if (std::string_view(flag) == "mw" && !vma.shared) continue;
    if (vma.has_flag(flag)) words += std::string(words.empty() ? "" : " ") + flag;
  }
  return words;
}

}  // namespace

void refuse_mappings(pid_t pid, const std::vector<Vma>& vmas) {
  for (const Vma& vma : vmas) {
    if (vma.special()) continue;
    for (const auto& [flag, why] : kRefusedFlags) {
      if (vma.has_flag(flag)) fail(EOPNOTSUPP, "{}: {}: {}", pid, vma.name(), why);
    }
    if (vma.path.starts_with("/anon_hugepage")) {
      fail(EOPNOTSUPP, "{}: {}: huge pages of hugetlbfs cannot be checkpointed", pid, vma.name());
    }
    // "anon_inode:[perf_event]", "socket:[123]": files that have no path.
    if (vma.inode != 0 && !vma.path.starts_with('/')) {
      fail(EOPNOTSUPP, "{}: {}: a mapping of this kind cannot be checkpointed", pid, vma.name());
    }
  }
}

bool take_flags(std::vector<Vma>& now, const std::vector<Vma>& before) {
  bool all = true;
  auto it = before.begin();
  for (Vma& vma : now) {
    while (it != before.end() && it->start < vma.start) ++it;
    const bool same = it != before.end() && it->start == vma.start && it->end == vma.end && it->prot == vma.prot &&
                      it->shared == vma.shared && it->inode == vma.inode && it->offset == vma.offset;
    if (same) vma.vm_flags = it->vm_flags;
    all = all && (same || vma.special());
  }
  return all;
}

void capture_mm(const CaptureContext& ctx, const std::vector<Vma>& vmas) {
  Record out;
  const Layout::MmFields fields = read_fields(ctx);
  for (const MmField& f : kFields) out.add_hex(f.name, fields.*f.member);
  if (const Vma* vdso = find_vdso(vmas)) {
    std::vector<std::byte> code(vdso->size());
    ctx.leader->read(RemotePtr{vdso->start}, code);
    out.add("vdso", digest_bytes(code).hex());
  }
  if (const long v = ctx.leader->syscall(SYS_prctl, PR_GET_THP_DISABLE); v > 0) out.add("thp_disable", int64_t{v});
  if (const long v = ctx.leader->syscall(SYS_prctl, PR_GET_MDWE); v > 0) out.add("mdwe", int64_t{v});
  for (const Vma& vma : vmas) {
    if (vma.special()) continue;
    if (const std::string words = kept_flags(vma); !words.empty()) {
      out.add("flags", range_name({vma.start, vma.end}) + " " + words);
    }
  }
  ctx.image->put(ctx.prefix + "mm", out.text());
  capture_mapped_files(ctx, vmas);
}

// ---- parsing ------------------------------------------------------------------------------------------------------

namespace {

constexpr uint64_t kLowestAddress = 65536;      // Debian's vm.mmap_min_addr
constexpr size_t kMaxAuxv = 4096;

void take_recorded_flags(std::vector<Vma>& vmas, const Record& mm) {
  for (const std::string& text : mm.all("flags")) {
    const size_t space = std::min(text.find(' '), text.size());
    const Range range = parse_range_name(std::string_view(text).substr(0, space), mm.where());
    const auto it = std::lower_bound(vmas.begin(), vmas.end(), range.start,
                                     [](const Vma& vma, uint64_t start) { return vma.start < start; });
    if (it == vmas.end() || it->start != range.start || it->end != range.end) {
      fail(EINVAL, "{}: flags of {}, which is no mapping of maps", mm.where(), text.substr(0, space));
    }
    it->vm_flags = text.substr(std::min(space + 1, text.size()));
  }
}

/// What we do for anybody with our rights must be what the caller could do with his own.
void check_rights(const Caller& caller, const Layout& layout) {
  if (caller.privileged()) return;
  uint64_t locked = 0;
  for (const Vma& vma : layout.vmas) {
    if (vma.special()) continue;
    if (vma.start < kLowestAddress) fail(EPERM, "{}: {}: only root may map this address", layout.where, vma.name());
    if (vma.has_flag("lo")) locked += vma.size();
  }
  rlimit limit = {};
  if (locked == 0) return;
  if (prlimit(caller.pid, RLIMIT_MEMLOCK, nullptr, &limit) != 0 || locked > limit.rlim_cur) {
    fail(EPERM, "{}: {} bytes of locked memory are more than the caller may lock", layout.where, locked);
  }
}

void check_kinds(const RestoreContext& ctx, const Layout& layout) {
  for (const Vma& vma : layout.vmas) {
    if (vma.special() || vma.inode == 0) {
      // Shared memory without an inode, or a growing stack that others share, no kernel ever makes.
      if (vma.inode == 0 && vma.shared) fail(EINVAL, "{}: {} is shared but of no file", layout.where, vma.name());
      continue;
    }
    if (vma.path.starts_with("/anon_hugepage")) {
      fail(EOPNOTSUPP, "{}: {}: huge pages of hugetlbfs cannot be resumed", layout.where, vma.name());
    }
    if (vma.unnamed_file()) {
      const std::string object = "objects/" + memory_object_name(vma.dev_major, vma.dev_minor, vma.inode);
      if (!ctx.image->has(object)) fail(EINVAL, "{}: {} is missing, which holds {}", layout.where, object, vma.name());
    }
  }
}

}  // namespace

Layout parse_layout(const RestoreContext& ctx) {
  Layout layout;
  layout.where = ctx.image->describe();
  layout.vmas = parse_maps(ctx.image->read(ctx.prefix + "maps"), layout.where + ": " + ctx.prefix + "maps");
  std::erase_if(layout.vmas, [](const Vma& vma) { return vma.path == "[vsyscall]" || vma.path == "[uprobes]"; });
  const Record mm = Record::parse(ctx.image->read(ctx.prefix + "mm"), layout.where + ": " + ctx.prefix + "mm");
  for (const MmField& f : kFields) layout.fields.*f.member = mm.get_u64(f.name, kTaskSizeMax);
  take_recorded_flags(layout.vmas, mm);
  layout.vdso_digest = mm.find("vdso");
  layout.thp_disable = mm.get_u64_or("thp_disable", 0);
  layout.mdwe = mm.get_u64_or("mdwe", 0);
  layout.auxv = ctx.image->read(ctx.prefix + "auxv", kMaxAuxv);
  layout.exe = ctx.image->read_link(ctx.prefix + "exe");
  check_kinds(ctx, layout);
  check_rights(ctx.caller, layout);
  return layout;
}

}  // namespace ckpt
