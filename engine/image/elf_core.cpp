#include "engine/image/elf_core.h"

#include <elf.h>
#include <sys/mman.h>
#include <sys/procfs.h>
#include <sys/user.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>

#include "engine/base/error.h"
#include "engine/base/record.h"
#include "engine/image/debugger_xsave.h"
#include "engine/image/maps.h"

namespace ckpt {

namespace {

constexpr uint64_t kAlign = 4096;
constexpr size_t kFxsaveSize = 512;  // the legacy region at the head of an XSAVE area: what NT_FPREGSET holds

uint64_t align_up(uint64_t n) { return (n + kAlign - 1) / kAlign * kAlign; }

struct Segment {
  uint64_t start = 0, end = 0;
  std::string path;
};

uint64_t parse_hex(std::string_view text, const std::string& where) {
  const auto value = parse_u64("0x" + std::string(text));
  if (!value) fail(EINVAL, "{}: '{}' is not an address", where, escape(text));
  return *value;
}

/// segments/START-END, in order of addresses.
std::vector<Segment> read_segments(const ImageSource& image, const std::string& prefix) {
  const std::string dir = prefix + "segments";
  std::vector<Segment> segments;
  for (const ImageEntry& entry : image.below(dir)) {
    const std::string where = image.describe() + ": " + entry.path;
    const std::string_view name = std::string_view(entry.path).substr(dir.size() + 1);
    const size_t dash = name.find('-');
    if (dash == std::string_view::npos) fail(EINVAL, "{} is not named START-END", where);
    Segment s{parse_hex(name.substr(0, dash), where), parse_hex(name.substr(dash + 1), where), entry.path};
    if (s.start >= s.end || s.start % kAlign || s.end % kAlign || s.end - s.start != entry.size) {
      fail(EINVAL, "{}: the size {} does not fit the name", where, entry.size);
    }
    segments.push_back(std::move(s));
  }
  std::sort(segments.begin(), segments.end(), [](const auto& a, const auto& b) { return a.start < b.start; });
  for (size_t i = 1; i < segments.size(); ++i) {
    if (segments[i].start < segments[i - 1].end) {
      fail(EINVAL, "{}: {} and {} overlap", image.describe(), segments[i - 1].path, segments[i].path);
    }
  }
  return segments;
}

// ---- notes ----

void add_note(std::string& notes, const char* owner, uint32_t type, std::string_view content) {
  const Elf64_Nhdr header{static_cast<Elf64_Word>(std::strlen(owner) + 1),
                          static_cast<Elf64_Word>(content.size()), type};
  notes.append(reinterpret_cast<const char*>(&header), sizeof header);
  notes.append(owner, header.n_namesz);
  notes.resize((notes.size() + 3) & ~size_t{3});
  notes.append(content);
  notes.resize((notes.size() + 3) & ~size_t{3});
}

template <typename T>
std::string_view raw(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

/// The first word of a line "Name:\tvalue" of the text of /proc/PID/status.
std::string status_word(std::string_view status, std::string_view name) {
  for (size_t at = 0; at < status.size();) {
    const size_t end = std::min(status.find('\n', at), status.size());
    const std::string_view line = status.substr(at, end - at);
    at = end + 1;
    if (!line.starts_with(name) || line.size() <= name.size() || line[name.size()] != ':') continue;
    const auto words = split_words(line.substr(name.size() + 1));
    return words.empty() ? "" : words[0];
  }
  return "";
}

int status_number(std::string_view status, std::string_view name) {
  return static_cast<int>(parse_i64(status_word(status, name)).value_or(0));
}

user_regs_struct read_registers(const Record& record) {
  user_regs_struct regs{};
#define CKPT_REGISTER(name) regs.name = record.get_u64(#name)
  CKPT_REGISTER(r15), CKPT_REGISTER(r14), CKPT_REGISTER(r13), CKPT_REGISTER(r12), CKPT_REGISTER(rbp);
  CKPT_REGISTER(rbx), CKPT_REGISTER(r11), CKPT_REGISTER(r10), CKPT_REGISTER(r9), CKPT_REGISTER(r8);
  CKPT_REGISTER(rax), CKPT_REGISTER(rcx), CKPT_REGISTER(rdx), CKPT_REGISTER(rsi), CKPT_REGISTER(rdi);
  CKPT_REGISTER(orig_rax), CKPT_REGISTER(rip), CKPT_REGISTER(cs), CKPT_REGISTER(eflags), CKPT_REGISTER(rsp);
  CKPT_REGISTER(ss), CKPT_REGISTER(fs_base), CKPT_REGISTER(gs_base);
#undef CKPT_REGISTER
  regs.ds = record.get_u64_or("ds", 0);
  regs.es = record.get_u64_or("es", 0);
  regs.fs = record.get_u64_or("fs", 0);
  regs.gs = record.get_u64_or("gs", 0);
  return regs;
}

/// Ids of the threads, the main thread first, from the names in registers/.
std::vector<int> thread_ids(const ImageSource& image, const std::string& prefix, int pid) {
  const std::string dir = prefix + "registers";
  std::vector<int> tids;
  for (const ImageEntry& entry : image.below(dir)) {
    const auto tid = parse_u64(std::string_view(entry.path).substr(dir.size() + 1));
    if (tid && *tid <= INT32_MAX) tids.push_back(static_cast<int>(*tid));
  }
  if (tids.empty()) fail(EINVAL, "{}: {} holds no thread", image.describe(), dir);
  std::sort(tids.begin(), tids.end(),
            [pid](int a, int b) { return std::pair(a != pid, a) < std::pair(b != pid, b); });
  return tids;
}

void add_thread_notes(std::string& notes, const ImageSource& image, const std::string& prefix, int tid,
                      std::string_view status, bool first) {
  const std::string path = prefix + "registers/" + std::to_string(tid);
  const Record record = Record::parse(image.read(path, 1 << 20), image.describe() + ": " + path);
  const user_regs_struct regs = read_registers(record);
  elf_prstatus prstatus{};
  prstatus.pr_pid = tid;
  prstatus.pr_ppid = status_number(status, "PPid");
  prstatus.pr_pgrp = status_number(status, "NSpgid");
  prstatus.pr_sid = status_number(status, "NSsid");
  static_assert(sizeof prstatus.pr_reg == sizeof regs);
  std::memcpy(&prstatus.pr_reg, &regs, sizeof regs);
  const std::string xsave = image.has(path + ".xsave") ? image.read(path + ".xsave", 1 << 20) : "";
  prstatus.pr_fpvalid = xsave.size() >= kFxsaveSize;
  add_note(notes, "CORE", NT_PRSTATUS, raw(prstatus));

  // The kernel puts the notes of the process between those of its first and its second thread; readers expect
  // the first NT_PRSTATUS to be the thread that they show.
  if (first) {
    const elf_prpsinfo psinfo = [&] {
      elf_prpsinfo p{};
      p.pr_sname = 'R';
      p.pr_uid = static_cast<unsigned>(status_number(status, "Uid"));
      p.pr_gid = static_cast<unsigned>(status_number(status, "Gid"));
      p.pr_pid = tid;
      p.pr_ppid = prstatus.pr_ppid;
      p.pr_pgrp = prstatus.pr_pgrp;
      p.pr_sid = prstatus.pr_sid;
      const std::string name = status_word(status, "Name");
      name.copy(p.pr_fname, sizeof p.pr_fname - 1);
      std::string args = image.has(prefix + "cmdline") ? image.read(prefix + "cmdline") : name;
      while (!args.empty() && args.back() == '\0') args.pop_back();
      std::replace(args.begin(), args.end(), '\0', ' ');
      args.copy(p.pr_psargs, sizeof p.pr_psargs - 1);
      return p;
    }();
    add_note(notes, "CORE", NT_PRPSINFO, raw(psinfo));
  }
  const std::array<char, 128> siginfo{};  // no signal ended it; sizeof(siginfo_t) is 128
  add_note(notes, "CORE", NT_SIGINFO, std::string_view(siginfo.data(), siginfo.size()));
  if (xsave.size() >= kFxsaveSize) {
    add_note(notes, "CORE", NT_FPREGSET, std::string_view(xsave).substr(0, kFxsaveSize));
    add_note(notes, "LINUX", NT_X86_XSTATE, debugger_xsave(xsave, record));
  }
}

/// NT_FILE: count, page size, then start, end and page offset of each file mapping, then their names.
std::string file_note(const std::vector<Vma>& vmas) {
  std::vector<uint64_t> numbers{0, kAlign};
  std::string names;
  for (const Vma& vma : vmas) {
    if (vma.inode == 0 || !vma.path.starts_with('/')) continue;
    ++numbers[0];
    numbers.insert(numbers.end(), {vma.start, vma.end, vma.offset / kAlign});
    names.append(vma.path).push_back('\0');
  }
  return std::string(reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(uint64_t)) +
         names;
}

uint32_t elf_flags(uint32_t prot) {
  return ((prot & PROT_READ) ? PF_R : 0) | ((prot & PROT_WRITE) ? PF_W : 0) | ((prot & PROT_EXEC) ? PF_X : 0);
}

std::vector<Vma> read_maps(const ImageSource& image, const std::string& prefix) {
  auto vmas = parse_maps(image.read(prefix + "maps"), image.describe() + ": " + prefix + "maps");
  std::sort(vmas.begin(), vmas.end(), [](const Vma& a, const Vma& b) { return a.start < b.start; });
  for (size_t i = 0; i < vmas.size(); ++i) {
    if (vmas[i].start >= vmas[i].end || (i > 0 && vmas[i].start < vmas[i - 1].end)) {
      fail(EINVAL, "{}: {}maps: the mapping at {:x} overlaps another", image.describe(), prefix,
           vmas[i].start);
    }
  }
  return vmas;
}

/// Where the memory of the process stands whose files are at `prefix`: there, or with the process that it shares its memory
/// with (`memory_of` in `family`, engine/kinds/sharing.h).
std::string memory_prefix(const ImageSource& image, const std::string& prefix) {
  const std::string family = prefix + "family";
  if (!image.has(family)) return prefix;
  const auto owner = Record::parse(image.read(family), image.describe() + ": " + family).find("memory_of");
  if (!owner) return prefix;
  const std::string child = "children/" + *owner + "/";
  return image.has(child + "maps") ? child : "";
}

}  // namespace

ElfCore::ElfCore(std::shared_ptr<const ImageSource> image, std::string prefix)
    : image_(std::move(image)), prefix_(std::move(prefix)), memory_prefix_(memory_prefix(*image_, prefix_)) {
  const std::string status = image_->read(prefix_ + "status", 1 << 20);
  const int pid = status_number(status, "Tgid");
  std::string notes;
  bool first = true;
  for (const int tid : thread_ids(*image_, prefix_, pid)) {
    add_thread_notes(notes, *image_, prefix_, tid, status, first);
    first = false;
  }
  if (image_->has(prefix_ + "auxv"))
    add_note(notes, "CORE", NT_AUXV, image_->read(prefix_ + "auxv", 1 << 20));
  add_note(notes, "CORE", NT_FILE, file_note(read_maps(*image_, memory_prefix_)));
  add_pieces();
  write_headers(notes);
}

void ElfCore::add_pieces() {
  const auto segments = read_segments(*image_, memory_prefix_);
  size_t next = 0;
  for (const Vma& vma : read_maps(*image_, memory_prefix_)) {
    if (vma.path == "[vsyscall]") continue;  // not the process's memory: the same for all
    while (next < segments.size() && segments[next].end <= vma.start) ++next;
    const bool touched = next < segments.size() && segments[next].start < vma.end;
    // Its pages are the kernel's, in no segment; debuggers want its symbols and its unwind tables.
    if (const ImageEntry* vdso = image_->find(memory_prefix_ + "vdso"); vma.path == "[vdso]" && vdso && vdso->size == vma.size()) {
      pieces_.push_back({0, vma.size(), vma.start, vma.size(), elf_flags(vma.prot), vdso->path, 0});
      continue;
    }
    uint64_t at = vma.start;
    const auto gap = [&](uint64_t end) {
      if (at >= end) return;
      const bool zeros = touched && vma.anonymous() && end - at <= kLargestZeroGap;
      pieces_.push_back({0, zeros ? end - at : 0, at, end - at, elf_flags(vma.prot), "", 0});
      at = end;
    };
    // A segment may run on into the next mapping, so `next` moves on only past what ends here.
    for (size_t i = next; i < segments.size() && segments[i].start < vma.end; ++i) {
      const Segment& s = segments[i];
      gap(std::max(s.start, vma.start));
      const uint64_t end = std::min(s.end, vma.end);
      pieces_.push_back({0, end - at, at, end - at, elf_flags(vma.prot), s.path, at - s.start});
      at = end;
      if (s.end <= vma.end) next = i + 1;
    }
    gap(vma.end);
  }
}

void ElfCore::write_headers(const std::string& notes) {
  const size_t count = pieces_.size() + 1;
  const bool many = count >= PN_XNUM;  // then the true number stands in sh_info of the only section header
  Elf64_Ehdr header{};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_ident[EI_VERSION] = EV_CURRENT;
  header.e_type = ET_CORE;
  header.e_machine = EM_X86_64;
  header.e_version = EV_CURRENT;
  header.e_ehsize = sizeof header;
  header.e_phentsize = sizeof(Elf64_Phdr);
  header.e_phnum = many ? PN_XNUM : static_cast<Elf64_Half>(count);
  header.e_phoff = sizeof header + (many ? sizeof(Elf64_Shdr) : 0);
  if (many) {
    header.e_shoff = sizeof header;
    header.e_shentsize = sizeof(Elf64_Shdr);
    header.e_shnum = 1;
  }
  head_.append(raw(header));
  if (many) {
    Elf64_Shdr section{};
    section.sh_size = 1;
    section.sh_info = static_cast<Elf64_Word>(count);
    head_.append(raw(section));
  }

  Elf64_Phdr note{};
  note.p_type = PT_NOTE;
  note.p_offset = head_.size() + count * sizeof(Elf64_Phdr);
  note.p_filesz = notes.size();
  note.p_align = 4;
  head_.append(raw(note));

  uint64_t offset = align_up(note.p_offset + notes.size());
  for (Piece& piece : pieces_) {
    piece.offset = offset;
    Elf64_Phdr load{};
    load.p_type = PT_LOAD;
    load.p_flags = piece.flags;
    load.p_offset = offset;
    load.p_vaddr = piece.address;
    load.p_filesz = piece.size;
    load.p_memsz = piece.memory;
    load.p_align = kAlign;
    head_.append(raw(load));
    if (piece.size > INT64_MAX - offset)
      fail(EINVAL, "{}: more memory than a file can hold", image_->describe());
    offset += piece.size;
  }
  head_.append(notes);
  head_.resize(align_up(head_.size()));
  size_ = offset;
  std::erase_if(pieces_, [](const Piece& piece) { return piece.size == 0; });
}

void ElfCore::read(uint64_t offset, std::span<std::byte> out) const {
  if (offset > size_ || out.size() > size_ - offset) {
    fail(EINVAL, "{}: a read beyond the end of the core", image_->describe());
  }
  if (offset < head_.size() && !out.empty()) {
    const size_t part = std::min<size_t>(out.size(), head_.size() - offset);
    std::memcpy(out.data(), head_.data() + offset, part);
    out = out.subspan(part);
    offset += part;
  }
  auto piece = std::upper_bound(pieces_.begin(), pieces_.end(), offset,
                                [](uint64_t at, const Piece& p) { return at < p.offset + p.size; });
  for (; !out.empty(); ++piece) {
    const uint64_t inside = offset - piece->offset;
    const auto part = out.first(std::min<uint64_t>(out.size(), piece->size - inside));
    if (piece->path.empty()) {
      std::fill(part.begin(), part.end(), std::byte{0});
    } else {
      image_->read_at(piece->path, piece->skip + inside, part);
    }
    out = out.subspan(part.size());
    offset += part.size();
  }
}

}  // namespace ckpt
