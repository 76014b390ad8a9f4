#include "ckptfs/command.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return ckpt::fuzz::refuse_or_accept(data, size, [](std::string_view text) {
    for (const std::string_view line : ckpt::split_commands(text)) {
      try {
        ckpt::parse_command(line);
      } catch (const ckpt::Error& e) {
        if (e.sentence().empty() || e.sentence().find('\n') != std::string::npos) std::abort();
      }
    }
  });
}
