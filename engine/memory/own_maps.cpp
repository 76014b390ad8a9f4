#include "engine/memory/own_maps.h"

#include "engine/base/error.h"
#include "engine/base/fd.h"

namespace ckpt {

std::vector<Vma> read_own_maps(const std::string& path) {
  constexpr size_t kMaxText = 1 << 30;
  return parse_live_maps(read_file(path, kMaxText), path);
}

}  // namespace ckpt
