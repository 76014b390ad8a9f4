#include "engine/process/remote.h"

#include "engine/base/error.h"

namespace ckpt {

long Remote::call(const char* name, long nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e,
                  uint64_t f) {
  const long result = syscall(nr, a, b, c, d, e, f);
  if (result < 0 && result > -4096) {
    fail(static_cast<int>(-result), "{}: {} in the process: {}", pid(), name, errno_text(static_cast<int>(-result)));
  }
  return result;
}

RemotePtr Remote::put_string(const std::string& s, size_t offset) {
  if (offset + s.size() + 1 > scratch_size()) fail(ENAMETOOLONG, "{}: a string of {} bytes is too long", pid(), s.size());
  write(scratch() + offset, std::as_bytes(std::span<const char>(s.c_str(), s.size() + 1)));
  return scratch() + offset;
}

}  // namespace ckpt
