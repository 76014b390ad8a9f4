#include "engine/process/remote.h"

#include <sys/ptrace.h>

#include "engine/base/error.h"

namespace ckpt {

uint64_t Remote::signal_mask() {
  // Where sigsuspend or ppoll have put another mask in place for a while, the kernel answers with the one to come back.
  uint64_t mask = 0;
  if (::ptrace(PTRACE_GETSIGMASK, tid(), sizeof mask, &mask) != 0) fail_errno("{}: thread {}: signal mask", pid(), tid());
  return mask;
}

std::vector<long> Remote::run_all(std::span<const SystemCall> calls) {
  std::vector<long> results;
  for (const SystemCall& c : calls) {
    results.push_back(syscall(c.nr, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], c.args[5]));
  }
  return results;
}

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
