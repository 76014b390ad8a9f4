#include "engine/image/debugger_xsave.h"

#include <cstdint>
#include <cstring>

#include "engine/base/error.h"

namespace ckpt {

namespace {

constexpr size_t kHeaderEnd = 576;
constexpr size_t kXcr0 = 464;      // in the bytes that the kernel leaves to software (struct fxregs_state)
constexpr size_t kStateBv = 512;
constexpr uint64_t kX87AndSse = 3;

struct Component {
  unsigned bit;
  size_t offset, size;
};

// Ascending: the last one of the CPU's features ends the area.
constexpr Component kIntel[] = {
    {2, 576, 256},     // AVX
    {5, 1088, 64},     // AVX-512 masks
    {6, 1152, 512},    // upper halves
    {7, 1664, 1024},   // registers 16-31
    {9, 2688, 8},      // protection keys
};

uint64_t load(std::string_view area, size_t at) {
  uint64_t value = 0;
  std::memcpy(&value, area.data() + at, sizeof value);
  return value;
}

}  // namespace

std::string debugger_xsave(std::string_view area, const Record& registers) {
  if (area.size() < kHeaderEnd) return std::string(area);
  const uint64_t features = load(area, kXcr0);
  std::string out(area.substr(0, kHeaderEnd));
  uint64_t kept = kX87AndSse;
  for (const Component& to : kIntel) {
    if ((features >> to.bit & 1) == 0) continue;
    kept |= uint64_t{1} << to.bit;
    out.resize(to.offset + to.size);
  }
  for (const std::string& line : registers.all("xsave_component")) {
    const auto from = registers.numbers(line, 3);
    for (const Component& to : kIntel) {
      if (from[0] != to.bit || (kept >> to.bit & 1) == 0) continue;
      if (from[2] != to.size || from[1] > area.size() || to.size > area.size() - from[1]) {
        fail(EINVAL, "{}: xsave_component '{}' is not inside the file", registers.where(), line);
      }
      area.copy(&out[to.offset], to.size, from[1]);
    }
  }
  for (const size_t at : {kXcr0, kStateBv}) {
    const uint64_t value = load(area, at) & kept;
    std::memcpy(&out[at], &value, sizeof value);
  }
  return out;
}

}  // namespace ckpt
