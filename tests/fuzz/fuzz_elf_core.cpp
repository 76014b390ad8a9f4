// The input is a whole image: files as "PATH SIZE\n" followed by as many bytes of content. Segment names,
// maps, registers and status are read by the core; whatever it makes of them can be read to its end.
#include <cstdlib>

#include "engine/base/record.h"
#include "engine/image/elf_core.h"
#include "tests/fuzz/fuzz.h"
#include "tests/unit/memory_image.h"

namespace {

constexpr uint64_t kMostRead = 1 << 20;

std::shared_ptr<ckpt::MemoryImage> image_of(std::string_view text) {
  auto image = std::make_shared<ckpt::MemoryImage>();
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    const auto words = ckpt::split_words(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    if (words.size() != 2) continue;
    const auto size = std::min<uint64_t>(ckpt::parse_u64(words[1]).value_or(0), text.size());
    if (ckpt::valid_image_path(words[0]) && !image->has(words[0])) image->put(words[0], text.substr(0, size));
    text.remove_prefix(size);
  }
  return image;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return ckpt::fuzz::refuse_or_accept(data, size, [](std::string_view text) {
    const ckpt::ElfCore core(image_of(text));
    std::string bytes(std::min(core.size(), kMostRead), '\0');
    core.read(0, std::as_writable_bytes(std::span(bytes)));
    core.read(core.size() - bytes.size(), std::as_writable_bytes(std::span(bytes)));
  });
}
