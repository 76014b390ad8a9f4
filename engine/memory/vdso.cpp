#include "engine/memory/vdso.h"

#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <algorithm>

#include "engine/base/error.h"
#include "engine/image/digest.h"
#include "engine/memory/kernel_abi.h"
#include "engine/memory/own_maps.h"
#include "engine/memory/vdso_code.h"

namespace ckpt {
namespace {

constexpr const char* kFile = "vdso";

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

const Vma* find_code(const std::vector<Vma>& group) {
  const auto code = std::find_if(group.begin(), group.end(), [](const Vma& vma) { return vma.path == "[vdso]"; });
  return code == group.end() ? nullptr : &*code;
}

/// Of this process.
std::span<const std::byte> code_at(const Vma& vma) {
  return {reinterpret_cast<const std::byte*>(vma.start), vma.size()};
}

/// This kernel's, which is every process's.
struct OwnVdso {
  std::vector<Vma> group;
  std::string digest;
};

const OwnVdso& own_vdso() {
  static const OwnVdso own = [] {
    OwnVdso found;
    found.group = vdso_group(read_own_maps("/proc/self/maps"));
    if (const Vma* code = find_code(found.group)) {
      found.digest = digest_bytes(code_at(*code)).hex();
    }
    return found;
  }();
  return own;
}

std::vector<VdsoFunction> own_functions() {
  const Vma* code = find_code(own_vdso().group);
  return code == nullptr ? std::vector<VdsoFunction>() : vdso_functions(code_at(*code), "this kernel's vDSO");
}

bool same_shape(const std::vector<Vma>& a, const std::vector<Vma>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [&](const Vma& x, const Vma& y) {
    return x.path == y.path && x.size() == y.size() && x.start - a.front().start == y.start - b.front().start;
  });
}

void refuse_threads_inside(const RestoreContext& ctx, const Vma& code, const std::string& where) {
  const std::string dir = ctx.prefix + "registers";
  for (const ImageEntry& entry : ctx.image->below(dir)) {
    if (entry.path.ends_with(".xsave")) continue;
    const Record registers = Record::parse(ctx.image->read(entry.path), where + ": " + entry.path);
    const uint64_t ip = registers.get_u64("rip");
    if (ip >= code.start && ip < code.end) {
      fail(ENOEXEC,
           "{}: was taken on another kernel, whose vDSO differs from this one's, while thread {} was inside it", where,
           entry.path.substr(dir.size() + 1));
    }
  }
}

}  // namespace

std::vector<Vma> vdso_group(const std::vector<Vma>& vmas) {
  std::vector<Vma> group;
  std::copy_if(vmas.begin(), vmas.end(), std::back_inserter(group), [](const Vma& vma) {
    return vma.special() && vma.path.starts_with("[v") && vma.path != "[vsyscall]";
  });
  return group;
}

void probe_vdso() { own_vdso(); }

void capture_vdso(const CaptureContext& ctx, const std::vector<Vma>& vmas, Record& mm) {
  const std::vector<Vma> group = vdso_group(vmas);
  const Vma* vdso = find_code(group);
  if (vdso == nullptr) return;
  std::string code(vdso->size(), '\0');
  ctx.leader->read(RemotePtr{vdso->start}, std::as_writable_bytes(std::span(code)));
  mm.add("vdso", digest_bytes(bytes_of(code)).hex());
  ctx.image->put(ctx.prefix + kFile, code);
}

SavedVdso parse_vdso(const RestoreContext& ctx, const std::vector<Vma>& vmas, const Record& mm) {
  SavedVdso saved;
  saved.where = ctx.image->describe();
  saved.group = vdso_group(vmas);
  const Vma* code = find_code(saved.group);
  if (code == nullptr) {
    if (!saved.group.empty()) fail(EINVAL, "{}: {} without a vDSO", saved.where, saved.group.front().name());
    return saved;
  }
  const uint64_t first = saved.group.front().start;
  if (saved.group.back().end - first > VdsoMove::kRoom) {
    fail(EINVAL, "{}: the vDSO with its data takes {} bytes", saved.where, saved.group.back().end - first);
  }
  const OwnVdso& own = own_vdso();
  const std::string digest = mm.get("vdso");
  if (digest == own.digest && same_shape(saved.group, own.group)) return saved;
  const std::string path = ctx.prefix + kFile;
  if (!ctx.image->has(path)) {
    fail(ENOEXEC, "{}: was taken on another kernel, whose vDSO differs from this one's, and does not hold it",
         saved.where);
  }
  saved.code = ctx.image->read(path, VdsoMove::kRoom);
  const std::string where = saved.where + ": " + path;
  if (saved.code.size() != code->size() || digest_bytes(bytes_of(saved.code)).hex() != digest) {
    fail(EINVAL, "{}: is not the vDSO that `maps` and `mm` tell of", where);
  }
  // Now rather than with a process half made.
  std::string trial = saved.code;
  redirect_vdso(std::as_writable_bytes(std::span(trial)), where, own_functions(), 0);
  refuse_threads_inside(ctx, *code, saved.where);
  return saved;
}

VdsoMove::VdsoMove(Stub& stub, const SavedVdso& saved, std::vector<Vma> group, RemotePtr spare)
    : stub_(stub), saved_(saved), group_(std::move(group)) {
  if (group_.empty()) return;
  if (saved.group.empty()) {
    for (const Vma& vma : group_) stub.leader().call("munmap", SYS_munmap, vma.start, vma.size());
    group_.clear();
    return;
  }
  const uint64_t from = group_.front().start, to = saved.group.front().start;
  const uint64_t size = group_.back().end - from;
  if (size > kRoom) fail(ENOEXEC, "{}: this kernel's vDSO takes {} bytes", saved.where, size);
  // Pieces that move by less than the whole would meet.
  if (saved.foreign() || (from < to + size && to < from + size)) move_to(spare.addr);
  if (!saved.foreign()) move_to(to);
}

void VdsoMove::move_to(uint64_t address) {
  const uint64_t from = group_.front().start;
  if (from == address) return;
  for (Vma& vma : group_) {
    const uint64_t target = address + (vma.start - from);
    stub_.leader().call("mremap of the vDSO", SYS_mremap, vma.start, vma.size(), vma.size(),
                        MREMAP_MAYMOVE | MREMAP_FIXED, target);
    vma.end = target + vma.size();
    vma.start = target;
  }
}

void VdsoMove::map_saved() {
  for (const Vma& vma : saved_.group) {
    const uint64_t prot = vma.path == "[vdso]" ? PROT_READ | PROT_WRITE : PROT_READ;
    const long at = stub_.leader().call("mmap in the place of the vDSO", SYS_mmap, vma.start, vma.size(), prot,
                                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, ~uint64_t{0}, 0);
    if (static_cast<uint64_t>(at) != vma.start) fail(EEXIST, "{}: {}: the address is taken", saved_.where, vma.name());
  }
}

/// Where the kernel would put any other mapping.
uint64_t VdsoMove::choose_place() {
  const uint64_t size = group_.back().end - group_.front().start;
  return static_cast<uint64_t>(stub_.leader().call("mmap for the vDSO", SYS_mmap, 0, size, PROT_NONE,
                                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, ~uint64_t{0}, 0));
}

void VdsoMove::finish() {
  if (!saved_.foreign()) return;
  Remote& leader = stub_.leader();
  map_saved();
  uint64_t base = 0;
  std::vector<VdsoFunction> here;
  if (!group_.empty()) {
    move_to(choose_place());
    if (const Vma* code = find_code(group_)) {
      base = code->start;
      here = own_functions();
    }
  }
  std::string code = saved_.code;
  redirect_vdso(std::as_writable_bytes(std::span(code)), saved_.where, here, base);
  const Vma& place = *find_code(saved_.group);
  leader.write(RemotePtr{place.start}, bytes_of(code));
  leader.call("mprotect of the vDSO", SYS_mprotect, place.start, place.size(), PROT_READ | PROT_EXEC);
  // For the reader of maps; a kernel without names does without.
  leader.syscall(SYS_prctl, abi::kPrSetVma, abi::kPrSetVmaAnonName, place.start, place.size(),
                 leader.put_string("vDSO of another kernel").addr);
}

}  // namespace ckpt
