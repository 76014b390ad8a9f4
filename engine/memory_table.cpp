#include "engine/memory_table.h"

#include <algorithm>

#include "engine/base/error.h"
#include "engine/base/fd.h"
#include "engine/base/record.h"

namespace ckpt {
namespace {

// Those of an armed userfaultfd of ours; one of the process itself is refused before ours comes.
std::string without_our_marks(std::string_view flags) {
  std::string kept;
  for (const std::string& word : split_words(flags)) {
    if (word == "um" || word == "uw") continue;
    kept += kept.empty() ? word : " " + word;
  }
  return kept;
}

bool same_mapping(const Vma& a, const Vma& b) {
  return a.prot == b.prot && a.shared == b.shared && a.inode == b.inode && a.dev_major == b.dev_major &&
         a.dev_minor == b.dev_minor && (a.inode == 0 || a.offset - a.start == b.offset - b.start);
}

}  // namespace

std::vector<Vma> MemoryTable::read_smaps() const {
  return parse_live_maps(read_file(proc_dir_, "smaps", 1 << 30), fmt::format("/proc/{}/smaps", pid_));
}

void MemoryTable::read(bool followed) {
  vmas_ = read_smaps();
  if (followed) {
    for (Vma& vma : vmas_) vma.vm_flags = without_our_marks(vma.vm_flags);
  }
  known_.assign(vmas_.size(), true);
}

// Of the same mapping, or of what it was before it grew, shrank or was cut in two.
void MemoryTable::take_flags(const std::vector<Vma>& from) {
  auto it = from.begin();
  for (size_t i = 0; i < vmas_.size(); ++i) {
    Vma& vma = vmas_[i];
    while (it != from.end() && it->end <= vma.start) ++it;
    for (auto old = it; !known_[i] && old != from.end() && old->start < vma.end; ++old) {
      if (!same_mapping(vma, *old)) continue;
      vma.vm_flags = without_our_marks(old->vm_flags);
      vma.protection_key = old->protection_key;
      known_[i] = true;
    }
  }
}

void MemoryTable::fix(std::string maps) {
  const std::vector<Vma> before = std::move(vmas_);
  maps_ = std::move(maps);
  vmas_ = parse_maps(maps_, fmt::format("/proc/{}/maps", pid_));
  known_.assign(vmas_.size(), false);
  take_flags(before);
}

bool MemoryTable::complete() {
  if (std::find(known_.begin(), known_.end(), false) == known_.end()) return true;
  const std::vector<Vma> now = read_smaps();
  take_flags(now);
  return !now.empty();
}

std::string MemoryTable::smaps() const {
  std::string text;
  std::string_view lines = maps_;
  for (const Vma& vma : vmas_) {
    const size_t end = std::min(lines.find('\n'), lines.size() - 1);
    text += lines.substr(0, end + 1);
    lines.remove_prefix(end + 1);
    if (vma.protection_key != 0) text += fmt::format("ProtectionKey: {}\n", vma.protection_key);
    if (!vma.vm_flags.empty()) text += "VmFlags: " + vma.vm_flags + "\n";
  }
  return text;
}

}  // namespace ckpt
