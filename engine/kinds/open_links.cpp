#include "engine/kinds/open_links.h"

#include <dirent.h>
#include <linux/kcmp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <memory>
#include <string>

#include "engine/base/record.h"

namespace ckpt {

void for_each_open_link(const std::function<bool(pid_t)>& skip,
                        const std::function<void(pid_t, const char* name, std::string_view target)>& visit) {
  const std::unique_ptr<DIR, int (*)(DIR*)> proc(::opendir("/proc"), ::closedir);
  while (const dirent* entry = proc ? ::readdir(proc.get()) : nullptr) {
    const auto number = parse_u64(entry->d_name);
    if (!number || skip(static_cast<pid_t>(*number)) || shares_our_files(static_cast<pid_t>(*number))) continue;
    const std::string dir = std::string("/proc/") + entry->d_name + "/fd";
    const std::unique_ptr<DIR, int (*)(DIR*)> fds(::opendir(dir.c_str()), ::closedir);
    while (const dirent* fd = fds ? ::readdir(fds.get()) : nullptr) {
      char target[64];
      const ssize_t n = ::readlinkat(::dirfd(fds.get()), fd->d_name, target, sizeof target);
      if (n > 0) visit(static_cast<pid_t>(*number), fd->d_name, {target, static_cast<size_t>(n)});
    }
  }
}

bool shares_our_files(pid_t pid) {
  return pid == ::getpid() || ::syscall(SYS_kcmp, ::getpid(), pid, KCMP_FILES, 0, 0) == 0;
}

}  // namespace ckpt
