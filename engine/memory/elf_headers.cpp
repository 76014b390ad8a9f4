#include "engine/memory/elf_headers.h"

#include <cstring>

namespace ckpt {

namespace {

constexpr size_t kMaxHeaders = 256;

}  // namespace

std::vector<Elf64_Phdr> read_program_headers(const ElfReader& read) {
  Elf64_Ehdr header;
  if (!read(std::as_writable_bytes(std::span(&header, 1)), 0)) return {};
  if (memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64) return {};
  if (header.e_phentsize != sizeof(Elf64_Phdr) || header.e_phnum > kMaxHeaders) return {};
  std::vector<Elf64_Phdr> segments(header.e_phnum);
  if (!read(std::as_writable_bytes(std::span(segments)), header.e_phoff)) return {};
  return segments;
}

}  // namespace ckpt
