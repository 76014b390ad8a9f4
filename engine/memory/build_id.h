// The build-id of an ELF file: the linker's digest of its content (NT_GNU_BUILD_ID).
#pragma once

#include <string>

namespace ckpt {

/// Lower-case hex digits; empty where the file is not ELF, has none, or is malformed. Reads a few hundred bytes.
std::string read_build_id(int fd);

}  // namespace ckpt
