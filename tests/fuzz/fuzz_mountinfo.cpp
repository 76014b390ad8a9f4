#include <cstdlib>

#include "tests/fuzz/fuzz.h"
#include "tools/ckpt/text.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return ckpt::fuzz::refuse_or_accept(data, size,
                                      [](std::string_view text) { ckpt::tool::ckptfs_mounts(text); });
}
