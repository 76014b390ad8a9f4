#include "engine/memory/inheritance.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace ckpt {
namespace {

/// What mmap(2) and madvise(2) have said of a mapping; the other flags are the kernel's own notes, or are set later.
constexpr std::array<std::string_view, 9> kMatters = {"gd", "nr", "dp", "dd", "hg", "nh", "mg", "sr", "rr"};

/// A private mapping that fork(2) copies with its pages.
bool is_copied(const Vma& vma) {
  return !vma.shared && !vma.special() && !vma.has_flag("dc") && !vma.has_flag("wf") && !vma.has_flag("dp");
}

/// Whether `part` is what is left of `whole` when the rest is unmapped, but for mprotect(2).
bool is_part(const Vma& part, const Vma& whole) {
  if (part.start < whole.start || part.end > whole.end || part.path != whole.path) return false;
  if (part.dev_major != whole.dev_major || part.dev_minor != whole.dev_minor || part.inode != whole.inode) return false;
  if (part.inode != 0 && part.offset - whole.offset != part.start - whole.start) return false;
  return std::ranges::all_of(kMatters, [&](std::string_view flag) { return part.has_flag(flag) == whole.has_flag(flag); });
}

bool has_keys(const Layout& layout) {
  return layout.marks.pkeys != 0 || std::ranges::any_of(layout.vmas, [](const Vma& v) { return v.protection_key != 0; });
}

bool same_place(const std::vector<Vma>& a, const std::vector<Vma>& b) {
  return std::ranges::equal(a, b, [](const Vma& x, const Vma& y) {
    return x.start == y.start && x.end == y.end && x.path == y.path;
  });
}

}  // namespace

bool may_be_copied(const Layout& maker) { return !has_keys(maker) && !maker.marks.merge_any && !maker.vdso.foreign(); }

Inheritance find_inheritance(const Layout& from, const std::vector<Segment>& content, const Layout& to) {
  Inheritance found;
  if (!may_be_copied(from) || has_keys(to) || to.vdso.foreign() || !same_place(from.vdso.group, to.vdso.group)) return found;
  found.mappings.assign(to.vmas.size(), false);
  found.protect.assign(to.vmas.size(), false);
  auto whole = from.vmas.begin();
  auto segment = content.begin();
  for (size_t i = 0; i < to.vmas.size(); ++i) {
    const Vma& vma = to.vmas[i];
    while (whole != from.vmas.end() && whole->end <= vma.start) ++whole;
    if (whole == from.vmas.end()) break;
    if (!is_copied(vma) || !is_copied(*whole) || !is_part(vma, *whole)) continue;
    found.mappings[i] = true;
    found.protect[i] = vma.prot != whole->prot;
    while (segment != content.end() && segment->range.end <= vma.start) ++segment;
    for (auto at = segment; at != content.end() && at->range.start < vma.end; ++at) {
      found.pages.add({std::max(at->range.start, vma.start), std::min(at->range.end, vma.end)});
    }
  }
  return found;
}

bool has_any(const Inheritance& inheritance, const std::vector<Segment>& content) {
  return std::ranges::any_of(content, [&](const Segment& s) { return !inheritance.pages.within(s.range).empty(); });
}

}  // namespace ckpt
