// Our own mappings, which other threads change while they are read.
#pragma once

#include <string>
#include <vector>

#include "engine/image/maps.h"

namespace ckpt {

/// Of "/proc/self/maps" or "/proc/self/smaps", as parse_live_maps(). Throws Error. Thread-safe.
std::vector<Vma> read_own_maps(const std::string& path);

}  // namespace ckpt
