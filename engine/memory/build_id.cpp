#include "engine/memory/build_id.h"

#include <unistd.h>

#include <cstddef>
#include <cstring>
#include <span>
#include <vector>

#include "engine/base/hex.h"
#include "engine/memory/elf_headers.h"

namespace ckpt {

namespace {

constexpr size_t kMaxNotes = 64 << 10;

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
  const ElfReader read = [fd](std::span<std::byte> to, uint64_t offset) {
    return pread(fd, to.data(), to.size(), static_cast<off_t>(offset)) == static_cast<ssize_t>(to.size());
  };
  for (const Elf64_Phdr& segment : read_program_headers(read)) {
    if (segment.p_type != PT_NOTE || segment.p_filesz > kMaxNotes) continue;
    std::vector<std::byte> notes(segment.p_filesz);
    if (!read(notes, segment.p_offset)) continue;
    if (std::string id = find_in_notes(notes); !id.empty()) return id;
  }
  return {};
}

}  // namespace ckpt
