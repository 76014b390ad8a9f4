#include <cstdlib>

#include "engine/image/manifest.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return ckpt::fuzz::refuse_or_accept(data, size, [](std::string_view text) {
    const ckpt::Manifest manifest = ckpt::Manifest::parse(text, "input");
    for (const auto& [path, file] : manifest.files) {
      if (!ckpt::valid_image_path(path)) std::abort();
    }
    const ckpt::Manifest again = ckpt::Manifest::parse(manifest.to_json(), "again");
    if (again.files.size() != manifest.files.size() || again.header.pids != manifest.header.pids)
      std::abort();
  });
}
