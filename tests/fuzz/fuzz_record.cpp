#include <cstdlib>

#include "engine/base/record.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return ckpt::fuzz::refuse_or_accept(data, size, [](std::string_view text) {
    const ckpt::Record record = ckpt::Record::parse(text, "input");
    // What was read is written and read again to the same.
    if (ckpt::Record::parse(record.text(), "again").lines() != record.lines()) std::abort();
    for (const auto& [name, value] : record.lines()) {
      if (ckpt::unescape(ckpt::escape(value)) != value) std::abort();
      if (ckpt::parse_u64(value)) record.get_u64_or(name, 0);
    }
  });
}
