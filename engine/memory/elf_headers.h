// The program headers of an ELF file, from wherever its bytes are.
#pragma once

#include <elf.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace ckpt {

/// Fills `to` with the bytes at an offset of the file; false where they are not all there.
using ElfReader = std::function<bool(std::span<std::byte> to, uint64_t offset)>;

/// Empty where the file is not 64-bit ELF, or is malformed.
std::vector<Elf64_Phdr> read_program_headers(const ElfReader& read);

}  // namespace ckpt
