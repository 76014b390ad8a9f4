#include "ckptfs/request.h"

#include <unistd.h>

#include <string>

#include "engine/base/error.h"
#include "engine/base/fd.h"

namespace ckpt {

namespace {

/// The number after "Name:" in /proc/TID/status; 0 where the thread or the field is gone.
pid_t status_number(pid_t tid, std::string_view field) {
  if (tid <= 0) return 0;
  std::string status;
  try {
    status = read_file(fmt::format("/proc/{}/status", tid), 1 << 16);
  } catch (const Error&) {
    return 0;  // it ended in the meantime
  }
  const size_t at = status.find(fmt::format("\n{}:\t", field));
  if (at == std::string::npos) return 0;
  return static_cast<pid_t>(std::atol(status.c_str() + at + field.size() + 3));
}

}  // namespace

pid_t process_of(pid_t tid) { return status_number(tid, "Tgid"); }

pid_t parent_of(pid_t pid) { return status_number(pid, "PPid"); }

bool is_same_or_ancestor(pid_t pid, pid_t descendant) {
  // Bounded, as parents may change (and pids be used again) while we walk.
  for (int depth = 0; descendant > 0 && depth < 4096; ++depth) {
    if (descendant == pid) return true;
    descendant = parent_of(descendant);
  }
  return false;
}

pid_t Request::process() const { return process_of(tid); }

pid_t Request::session() const { return tid > 0 ? ::getsid(tid) : -1; }

}  // namespace ckpt
