#include "engine/kinds/kind.h"

#include <fcntl.h>
#include <sys/syscall.h>

#include <algorithm>

#include "engine/base/error.h"
#include "engine/kinds/sock_diag.h"
#include "engine/kinds/unix_queue.h"
#include "engine/process/procfs.h"

namespace ckpt {

void TreeDescriptors::add(pid_t pid, const std::vector<OpenFd>& fds) {
  if (pids.empty()) root = pid;
  pids.insert(pid);
  tables.push_back(&fds);
  for (const OpenFd& fd : fds) by_inode.emplace(std::make_pair(fd.st.st_dev, fd.st.st_ino), &fd);
}

bool CaptureContext::has_thread(pid_t tid) const {
  try {
    return has_process(read_status(tid).tgid);
  } catch (const Error&) {
    return false;  // there is none
  }
}

std::string RestoreContext::prefix_of(pid_t other) const {
  return process_prefix(other, root != 0 ? root : pid);
}

bool RestoreContext::has_thread(pid_t tid) const {
  if (image->has(fmt::format("{}threads/{}", prefix, tid))) return true;
  return pids != nullptr && std::ranges::any_of(*pids, [&](pid_t process) {
           return image->has(fmt::format("{}threads/{}", prefix_of(process), tid));
         });
}

void RestoreContext::place(int local, int fd, bool cloexec, Remote& process) const {
  const auto given = static_cast<uint64_t>(give(local));
  process.call("dup3", SYS_dup3, given, static_cast<uint64_t>(fd), cloexec ? O_CLOEXEC : 0);
  process.call("close", SYS_close, given);
}

UniqueFd placeholder(const std::string& where) {
  UniqueFd fd(open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (!fd) fail_errno("{}: /dev/null", where);
  return fd;
}

UniqueFd CaptureContext::take(int fd) const {
  UniqueFd mine(static_cast<int>(syscall(SYS_pidfd_getfd, pid_fd, fd, 0)));
  if (!mine) fail_errno("{}: fd {}: pidfd_getfd", pid, fd);
  return mine;
}

UniqueFd CaptureContext::take(const OpenFd& fd) const {
  if (fd.pid == pid) return take(fd.fd);
  const UniqueFd process(static_cast<int>(syscall(SYS_pidfd_open, fd.pid, 0)));
  UniqueFd mine(static_cast<int>(syscall(SYS_pidfd_getfd, process.get(), fd.fd, 0)));
  if (!mine) fail_errno("{}: fd {}: pidfd_getfd", fd.pid, fd.fd);
  return mine;
}

std::vector<const OpenFd*> CaptureContext::holders(dev_t dev, ino_t inode) const {
  std::vector<const OpenFd*> all;
  const auto [begin, end] = tree->by_inode.equal_range({dev, inode});
  for (auto it = begin; it != end; ++it) all.push_back(it->second);
  if (queued == nullptr) return all;
  for (const OpenFd& fd : queued->infos) {
    if (fd.st.st_dev == dev && fd.st.st_ino == inode) all.push_back(&fd);
  }
  return all;
}

bool CaptureContext::may_hold_more() const {
  if (queued != nullptr) return false;
  const auto holds_more = [this](const OpenFd& fd) {
    if (fd.shares >= 0 || !is_unix_socket(fd)) return false;
    try {
      return has_unread(take(fd).get());
    } catch (const Error&) {
      return true;  // it is closed by now, and may have been read
    }
  };
  if (!tree->may_hold_more) {
    tree->may_hold_more = std::ranges::any_of(
        tree->tables, [&](const std::vector<OpenFd>* table) { return std::ranges::any_of(*table, holds_more); });
  }
  return *tree->may_hold_more;
}

const std::map<ino_t, UnixDiag>& CaptureContext::unix_sockets() const {
  if (!tree->unix_sockets) tree->unix_sockets = std::make_shared<const std::map<ino_t, UnixDiag>>(list_unix_sockets());
  return *tree->unix_sockets;
}

const UnixDiag* CaptureContext::unix_socket(ino_t inode) const {
  const auto it = unix_sockets().find(inode);
  return it == unix_sockets().end() ? nullptr : &it->second;
}

const DescriptorKind& kind_of(const OpenFd& fd) {
  const auto& kinds = descriptor_kinds();
  for (const DescriptorKind* kind : kinds) {
    if (kind->matches(fd)) return *kind;
  }
  return *kinds.back();
}

const DescriptorKind& kind_named(std::string_view type, const std::string& where) {
  for (const DescriptorKind* kind : descriptor_kinds()) {
    if (type == kind->name()) return *kind;
  }
  fail(EOPNOTSUPP, "{}: the type '{}' is not known to this version", where, escape(type));
}

}  // namespace ckpt
