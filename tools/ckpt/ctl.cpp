#include "tools/ckpt/ctl.h"

#include <fcntl.h>

#include "engine/base/error.h"
#include "engine/base/fd.h"
#include "tools/ckpt/progress.h"

namespace ckpt::tool {

namespace {

/// The newest outcome: the last line that ctl holds for what was written through this descriptor.
std::string last_line(int fd, const std::string& path) {
  if (::lseek(fd, 0, SEEK_SET) < 0) fail_errno("{}", path);
  std::string text = read_all(fd, path);
  while (!text.empty() && text.back() == '\n') text.pop_back();
  const size_t start = text.rfind('\n');
  return start == std::string::npos ? text : text.substr(start + 1);
}

}  // namespace

std::string run_ctl(const std::string& mount, const std::string& command) {
  const std::string path = mount + "/ctl";
  const Waiting waiting(command);
  const UniqueFd fd = open_at(AT_FDCWD, path, O_RDWR);
  const std::string line = command + "\n";
  // One write is one command, and its error is the command's.
  const ssize_t written = ::write(fd.get(), line.data(), line.size());
  const int err = written < 0 ? errno : 0;
  const std::string outcome = last_line(fd.get(), path);
  if (err) throw Error(err, outcome.empty() ? command + ": " + errno_text(err) : outcome);
  return outcome;
}

}  // namespace ckpt::tool
