#include "engine/memory/build_id.h"

#include <elf.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstring>
#include <span>
#include <vector>

#include "engine/base/hex.h"

namespace ckpt {

namespace {

constexpr size_t kMaxNotes = 64 << 10;
constexpr size_t kMaxHeaders = 256;

bool read_exactly(int fd, void* to, size_t size, uint64_t offset) {
  return pread(fd, to, size, static_cast<off_t>(offset)) == static_cast<ssize_t>(size);
}

std::string find_in_notes(std::span<const std::byte> notes) {
  const auto padded = [](size_t n) { return (n + 3) & ~size_t{3}; };
  while (notes.size() >= sizeof(Elf64_Nhdr)) {
    Elf64_Nhdr note;
    memcpy(&note, notes.data(), sizeof(note));
    const size_t name = padded(note.n_namesz), desc = padded(note.n_descsz);
    if (name > notes.size() || desc > notes.size() || sizeof(note) + name + desc > notes.size()) break;
    const std::byte* at = notes.data() + sizeof(note);
    if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 && memcmp(at, "GNU", 4) == 0 && note.n_descsz > 0) {
      return to_hex(std::span(at + name, note.n_descsz));
    }
    notes = notes.subspan(sizeof(note) + name + desc);
  }
  return {};
}

}  // namespace

std::string read_build_id(int fd) {
  Elf64_Ehdr header;
  if (!read_exactly(fd, &header, sizeof(header), 0)) return {};
  if (memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64) return {};
  if (header.e_phentsize != sizeof(Elf64_Phdr) || header.e_phnum > kMaxHeaders) return {};
  std::vector<Elf64_Phdr> segments(header.e_phnum);
  if (!read_exactly(fd, segments.data(), segments.size() * sizeof(Elf64_Phdr), header.e_phoff)) return {};
  for (const Elf64_Phdr& segment : segments) {
    if (segment.p_type != PT_NOTE || segment.p_filesz > kMaxNotes) continue;
    std::vector<std::byte> notes(segment.p_filesz);
    if (!read_exactly(fd, notes.data(), notes.size(), segment.p_offset)) continue;
    if (std::string id = find_in_notes(notes); !id.empty()) return id;
  }
  return {};
}

}  // namespace ckpt
