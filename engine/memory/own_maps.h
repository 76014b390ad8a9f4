// Our own mappings, which other threads change while they are read.
#pragma once

#include <string>
#include <vector>

#include "engine/image/maps.h"

namespace ckpt {

/// Of "/proc/self/maps" or "/proc/self/smaps". The kernel hands the text out in pieces and holds nothing still between them:
/// where these do not go together it is read again. Throws Error. Thread-safe.
std::vector<Vma> read_own_maps(const std::string& path);

}  // namespace ckpt
