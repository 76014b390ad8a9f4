#include <cstdlib>

#include "engine/image/maps.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return ckpt::fuzz::refuse_or_accept(data, size, [](std::string_view text) {
    for (const ckpt::Vma& vma : ckpt::parse_maps(text, "input")) {
      if (vma.start >= vma.end) std::abort();
    }
  });
}
