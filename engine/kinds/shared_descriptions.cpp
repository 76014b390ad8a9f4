// Which descriptors share a file description, within a process and between those of a checkpoint.
#include <linux/kcmp.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <tuple>

#include "engine/base/error.h"
#include "engine/kinds/kind.h"

namespace ckpt {

namespace {

/// Order of two file descriptions, as kcmp(2) gives it, the same for all processes: 0 equal, 1 less, 2 greater. A
/// descriptor that was closed meanwhile counts as unequal.
int compare_files(const OpenFd& a, const OpenFd& b) {
  const long result = syscall(SYS_kcmp, a.pid, b.pid, KCMP_FILE, a.fd, b.fd);
  if (result < 0) {
    if (errno == EBADF || errno == ESRCH) return std::tie(a.pid, a.fd) < std::tie(b.pid, b.fd) ? 1 : 2;
    fail_errno("{}: kcmp with {}, which tells shared file descriptions apart", a.pid, b.pid);
  }
  return static_cast<int>(result);
}

/// What equal file descriptions have in common for certain, even while another process moves their position. The
/// inode of anonymous files is one for all, so eventfds come apart by their id.
auto group_key(const OpenFd& fd) {
  const bool anonymous = fd.target.starts_with("anon_inode:");
  return std::make_tuple(fd.st.st_dev, fd.st.st_ino, fd.st.st_mode & S_IFMT, fd.mnt_id,
                         anonymous ? fd.target : std::string(), fd.info("eventfd-id").value_or(""));
}

/// One file description: who has it first, and which of the process that was looked at last.
struct Description {
  const OpenFd* owner;
  const OpenFd* last;
};

void note(std::vector<Description>& sorted, OpenFd& fd) {
  fd.shares = -1;
  fd.shares_pid = 0;
  // An order that changes under us (the processes may be running) is found out by nothing worse than a wrong answer.
  size_t begin = 0, end = sorted.size();
  while (begin < end) {
    const size_t middle = begin + (end - begin) / 2;
    Description& known = sorted[middle];
    const int order = compare_files(fd, *known.owner);
    if (order == 0) {
      const bool own = known.last->pid == fd.pid;
      fd.shares = own ? known.last->fd : known.owner->fd;
      fd.shares_pid = own ? 0 : known.owner->pid;
      if (!own) known.last = &fd;
      return;
    }
    (order == 1 ? end : begin) = order == 1 ? middle : middle + 1;
  }
  sorted.insert(sorted.begin() + static_cast<ptrdiff_t>(begin), {&fd, &fd});
}

}  // namespace

void find_shared_descriptions(std::span<std::vector<OpenFd>* const> tables) {
  if (tables.empty()) return;
  std::map<decltype(group_key(OpenFd{})), std::vector<Description>> groups;
  for (std::vector<OpenFd>* table : tables) {
    for (OpenFd& fd : *table) note(groups[group_key(fd)], fd);
  }
}

bool same_description(pid_t pid, int fd, pid_t other, int other_fd) {
  const long result = syscall(SYS_kcmp, pid, other, KCMP_FILE, fd, other_fd);
  if (result < 0 && errno != EBADF && errno != ESRCH) fail_errno("{}: kcmp", pid);
  return result == 0;
}

}  // namespace ckpt
