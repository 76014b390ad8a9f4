// Capture of an address space's description, and its parsing.
#include "engine/memory/layout.h"

#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <algorithm>

#include "engine/base/error.h"
#include "engine/kinds/memory_object.h"

#ifndef PR_GET_MDWE
#define PR_GET_MDWE 66
#endif

namespace ckpt {

namespace {

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

constexpr Question kBrk{"brk", SYS_brk};
constexpr Question kThpDisable{"prctl(PR_GET_THP_DISABLE)", SYS_prctl, {PR_GET_THP_DISABLE}};
constexpr Question kMdwe{"prctl(PR_GET_MDWE)", SYS_prctl, {PR_GET_MDWE}};

Layout::MmFields read_fields(const CaptureContext& ctx, long brk) {
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
  fields.brk = static_cast<uint64_t>(brk);
  return fields;
}

}  // namespace

void probe_mm() {
  probe_memory_marks();
  probe_vdso();
}

void ask_mm(const CaptureContext& ctx, Questions& questions) {
  for (const Question& question : {kBrk, kThpDisable, kMdwe}) questions.ask(question);
  ask_memory_marks(ctx, questions);
  ask_mm_settings(questions);
}

void capture_mm(const CaptureContext& ctx, const std::vector<Vma>& vmas, const Questions& answers) {
  Record out;
  const Layout::MmFields fields = read_fields(ctx, answers.result(kBrk));
  for (const MmField& f : kFields) out.add_hex(f.name, fields.*f.member);
  capture_vdso(ctx, vmas, out);
  capture_memory_marks(ctx, vmas, answers, out);
  capture_mm_settings(ctx, answers, out);
  if (const long v = answers.result(kThpDisable); v > 0) out.add("thp_disable", int64_t{v});
  if (const long v = answers.result(kMdwe); v > 0) out.add("mdwe", int64_t{v});
  ctx.image->put(ctx.prefix + "mm", out.text());
  capture_mapped_files(ctx, vmas);
}

// ---- parsing ------------------------------------------------------------------------------------------------------

namespace {

constexpr uint64_t kLowestAddress = 65536;      // Debian's vm.mmap_min_addr
constexpr size_t kMaxAuxv = 4096;

/// Gives the mappings of `now` (maps) the VmFlags of the same ones in `smaps`.
void take_flags(std::vector<Vma>& now, const std::vector<Vma>& smaps) {
  auto it = smaps.begin();
  for (Vma& vma : now) {
    while (it != smaps.end() && it->start < vma.start) ++it;
    if (it == smaps.end() || it->start != vma.start || it->end != vma.end) continue;
    vma.vm_flags = it->vm_flags;
    vma.protection_key = it->protection_key;
  }
}

/// What this version cannot make: by its VmFlags.
void refuse_flags(const Layout& layout) {
  constexpr std::pair<const char*, const char*> kRefused[] = {
      {"io", "memory of a device"}, {"pf", "memory of a device"}, {"ht", "huge pages of hugetlbfs"},
      {"ss", "a shadow stack"},     {"sl", "a sealed mapping"},
  };
  for (const Vma& vma : layout.vmas) {
    for (const auto& [flag, what] : kRefused) {
      if (!vma.special() && vma.has_flag(flag)) {
        fail(EOPNOTSUPP, "{}: {}: {} cannot be resumed", layout.where, vma.name(), what);
      }
    }
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
  if (locked > caller.hard_limits[RLIMIT_MEMLOCK]) {
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
  if (const std::string smaps = ctx.prefix + "smaps"; ctx.image->has(smaps)) {
    take_flags(layout.vmas, parse_maps(ctx.image->read(smaps), layout.where + ": " + smaps));
  }
  layout.vdso = parse_vdso(ctx, layout.vmas, mm);
  layout.marks = parse_memory_marks(mm);
  layout.settings = parse_mm_settings(mm);
  layout.thp_disable = mm.get_u64_or("thp_disable", 0);
  layout.mdwe = mm.get_u64_or("mdwe", 0);
  layout.auxv = ctx.image->read(ctx.prefix + "auxv", kMaxAuxv);
  layout.exe = ctx.image->read_link(ctx.prefix + "exe");
  refuse_flags(layout);
  check_kinds(ctx, layout);
  check_rights(ctx.caller, layout);
  return layout;
}

}  // namespace ckpt
