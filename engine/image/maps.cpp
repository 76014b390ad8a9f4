#include "engine/image/maps.h"

#include <sys/mman.h>

#include <algorithm>
#include <charconv>

#include "engine/base/error.h"
#include "engine/base/record.h"

namespace ckpt {
namespace {

// vm.max_map_count may be raised far above its default of 65530; a table beyond this is no process's.
constexpr size_t kMaxVmas = 1 << 22;
constexpr uint64_t kMaxProtectionKey = 15;

/// Cursor over one line of a maps table. Every take function fails by returning false and leaves the rest undefined.
class LineParser {
 public:
  explicit LineParser(std::string_view line) : rest_(line) {}

  bool hex(uint64_t& out) {
    const char* end = rest_.data() + rest_.size();
    const auto [stop, ec] = std::from_chars(rest_.data(), end, out, 16);
    return advance(stop, ec);
  }
  bool decimal(uint64_t& out) {
    const char* end = rest_.data() + rest_.size();
    const auto [stop, ec] = std::from_chars(rest_.data(), end, out, 10);
    return advance(stop, ec);
  }
  bool character(char c) {
    if (rest_.empty() || rest_.front() != c) return false;
    rest_.remove_prefix(1);
    return true;
  }
  bool permissions(Vma& vma) {
    if (rest_.size() < 4) return false;
    vma.prot = 0;
    if (!flag(rest_[0], 'r', PROT_READ, vma.prot) || !flag(rest_[1], 'w', PROT_WRITE, vma.prot) ||
        !flag(rest_[2], 'x', PROT_EXEC, vma.prot) || (rest_[3] != 's' && rest_[3] != 'p')) {
      return false;
    }
    vma.shared = rest_[3] == 's';
    rest_.remove_prefix(4);
    return true;
  }
  /// What is left without the padding before it.
  std::string_view path() const {
    const size_t begin = rest_.find_first_not_of(' ');
    return begin == std::string_view::npos ? std::string_view() : rest_.substr(begin);
  }
  bool at_end() const { return rest_.empty(); }

 private:
  static bool flag(char c, char set, uint32_t bit, uint32_t& prot) {
    if (c == set) prot |= bit;
    return c == set || c == '-';
  }
  bool advance(const char* stop, std::errc ec) {
    if (ec != std::errc() || stop == rest_.data()) return false;
    rest_.remove_prefix(static_cast<size_t>(stop - rest_.data()));
    return true;
  }

  std::string_view rest_;
};

bool parse_header(std::string_view line, Vma& vma) {
  LineParser p(line);
  uint64_t major = 0, minor = 0;
  if (!p.hex(vma.start) || !p.character('-') || !p.hex(vma.end) || !p.character(' ') || !p.permissions(vma) ||
      !p.character(' ') || !p.hex(vma.offset) || !p.character(' ') || !p.hex(major) || !p.character(':') ||
      !p.hex(minor) || !p.character(' ') || !p.decimal(vma.inode)) {
    return false;
  }
  if (major > UINT32_MAX || minor > UINT32_MAX) return false;
  if (!p.at_end() && !p.character(' ')) return false;
  vma.dev_major = static_cast<uint32_t>(major);
  vma.dev_minor = static_cast<uint32_t>(minor);
  vma.path = p.path();
  return vma.path.find('\0') == std::string::npos;
}

/// "Rss:   4 kB", "VmFlags: rd ex mr": a word with a colon, which no header line begins with.
bool is_smaps_field(std::string_view line) {
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos || colon == 0) return false;
  return line.substr(0, colon).find_first_of(" -") == std::string_view::npos;
}

void check_placement(const Vma& vma, const std::vector<Vma>& before, const std::string& where) {
  const auto name = [&] { return fmt::format("{:x}-{:x}", vma.start, vma.end); };
  if (vma.start >= vma.end) fail(EINVAL, "{}: mapping {} is empty or reversed", where, name());
  if (vma.start % kPageSize != 0 || vma.end % kPageSize != 0) {
    fail(EINVAL, "{}: mapping {} is not page aligned", where, name());
  }
  if (vma.offset % kPageSize != 0) fail(EINVAL, "{}: mapping {}: offset is not page aligned", where, name());
  // [vsyscall] is a page of the kernel's half, the only one that ever shows.
  if (vma.end > kTaskSizeMax && vma.path != "[vsyscall]") {
    fail(EINVAL, "{}: mapping {} is beyond the address space of a process", where, name());
  }
  if (!before.empty() && vma.start < before.back().end) {
    fail(EINVAL, "{}: mapping {} overlaps or precedes the one before it", where, name());
  }
}

/// The kernel gives the table a page at a time and goes on behind the last mapping (m_start() in fs/proc/task_mmu.c), which may have
/// become part of a larger one: what comes later is newer.
void make_way(const Vma& vma, std::vector<Vma>& before) {
  while (!before.empty() && before.back().start >= vma.start) before.pop_back();
  if (!before.empty()) before.back().end = std::min(before.back().end, vma.start);
}

std::vector<Vma> parse(std::string_view text, const std::string& where, bool live) {
  std::vector<Vma> vmas;
  while (!text.empty()) {
    const size_t newline = text.find('\n');
    const std::string_view line = text.substr(0, newline);
    text.remove_prefix(newline == std::string_view::npos ? text.size() : newline + 1);
    if (line.empty()) continue;
    if (is_smaps_field(line)) {
      if (vmas.empty()) fail(EINVAL, "{}: a field stands before the first mapping", where);
      if (constexpr std::string_view key = "ProtectionKey:"; line.starts_with(key)) {
        const std::string number(line.substr(std::min(line.find_first_not_of(' ', key.size()), line.size())));
        const auto value = parse_u64(number);
        if (!value || *value > kMaxProtectionKey) fail(EINVAL, "{}: '{}' is no protection key", where, escape(number));
        vmas.back().protection_key = static_cast<uint32_t>(*value);
        continue;
      }
      constexpr std::string_view flags = "VmFlags:";
      if (!line.starts_with(flags)) continue;
      std::string_view words = line.substr(flags.size());
      while (words.starts_with(' ')) words.remove_prefix(1);
      while (words.ends_with(' ')) words.remove_suffix(1);
      vmas.back().vm_flags = words;
      continue;
    }
    Vma vma;
    if (!parse_header(line, vma)) {
      fail(EINVAL, "{}: malformed line \"{}\"", where, line.substr(0, 120));
    }
    if (live) make_way(vma, vmas);
    check_placement(vma, vmas, where);
    if (vmas.size() == kMaxVmas) fail(EINVAL, "{}: more than {} mappings", where, kMaxVmas);
    vmas.push_back(std::move(vma));
  }
  return vmas;
}

}  // namespace

bool Vma::has_flag(std::string_view two_letters) const {
  for (size_t at = 0; at + 2 <= vm_flags.size(); at += 3) {
    if (std::string_view(vm_flags).substr(at, 2) == two_letters) return true;
  }
  return false;
}

// Words stand in the order of their bits, and a bit without a name is "??" (show_smap_vma_flags() in fs/proc/task_mmu.c,
// include/linux/mm.h). VM_LOCKONFAULT, nameless in Linux 6.1, is the one bit between VM_DONTEXPAND ("de") and VM_ACCOUNT
// ("ac"): all below it have names, so a name from above must follow.
bool Vma::nameless_lock_on_fault() const {
  constexpr std::string_view kBelow = " rd wr ex sh mr mw me ms gd um pf uw lo io sr rr dc de ";
  constexpr std::string_view kAbove = " ac nr ht sf ar wf dd sd mm hg nh mg ";
  const auto one_of = [](std::string_view list, const std::string& word) {
    return list.find(" " + word + " ") != std::string_view::npos;
  };
  const std::vector<std::string> words = split_words(vm_flags);
  const auto at = std::find(words.begin(), words.end(), "??");
  return at != words.end() && at + 1 != words.end() && std::find(words.begin(), at, "lo") != at &&
         std::all_of(words.begin(), at, [&](const std::string& word) { return one_of(kBelow, word); }) &&
         std::all_of(at + 1, words.end(), [&](const std::string& word) { return one_of(kAbove, word); });
}

bool Vma::special() const {
  // [vvar_vclock] since 6.13; [uprobes] is the kernel's own page as well.
  return path == "[vdso]" || path == "[vsyscall]" || path == "[uprobes]" || path.rfind("[vvar", 0) == 0;
}

bool Vma::unnamed_file() const {
  if (inode == 0) return false;
  constexpr std::string_view deleted = " (deleted)";
  return path.size() > deleted.size() && path.ends_with(deleted);
}

std::string Vma::name() const {
  return fmt::format("mapping {:08x}-{:08x}{}", start, end, path.empty() ? "" : " (" + path + ")");
}

std::vector<Vma> parse_maps(std::string_view text, const std::string& where) { return parse(text, where, false); }

std::vector<Vma> parse_live_maps(std::string_view text, const std::string& where) { return parse(text, where, true); }

std::string range_name(Range range) { return fmt::format("{:08x}-{:08x}", range.start, range.end); }

Range parse_range_name(std::string_view name, const std::string& where) {
  Range range;
  LineParser p(name);
  const bool parsed = p.hex(range.start) && p.character('-') && p.hex(range.end) && p.at_end();
  // The spelling must be the one that we write: "0x", capitals or padding would make two names for one run.
  if (!parsed || range_name(range) != name) fail(EINVAL, "{}: the name is not START-END in hex", where);
  if (range.start >= range.end || range.start % kPageSize != 0 || range.end % kPageSize != 0 ||
      range.end > kTaskSizeMax) {
    fail(EINVAL, "{}: the name is no page-aligned run of addresses", where);
  }
  return range;
}

}  // namespace ckpt
