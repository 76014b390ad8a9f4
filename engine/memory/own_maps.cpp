#include "engine/memory/own_maps.h"

#include "engine/base/error.h"
#include "engine/base/fd.h"

namespace ckpt {

std::vector<Vma> read_own_maps(const std::string& path) {
  constexpr int kTries = 100;
  constexpr size_t kMaxText = 1 << 30;
  for (int tries = 1;; ++tries) {
    try {
      return parse_maps(read_file(path, kMaxText), path);
    } catch (const Error& e) {
      if (e.err() != EINVAL || tries == kTries) throw;
    }
  }
}

}  // namespace ckpt
