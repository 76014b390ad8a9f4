#include <vector>

#include "engine/memory/vdso_code.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return ckpt::fuzz::refuse_or_accept(data, size, [](std::string_view text) {
    const auto bytes = std::as_bytes(std::span(text));
    std::vector<std::byte> code(bytes.begin(), bytes.end());
    ckpt::redirect_vdso(code, "input", {{"clock_gettime", 16, 64}}, 0x7fff00000000);
  });
}
