#include "engine/kinds/unix_name.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <cstddef>
#include <cstring>

#include "engine/base/error.h"
#include "engine/base/parallel.h"
#include "engine/kinds/named_file.h"
#include "engine/kinds/sock_diag.h"
#include "engine/process/as_caller.h"

namespace ckpt {

namespace {

int open_path_in(int dir, const std::string& path, uint64_t resolve) {
  open_how how = {};
  how.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC;
  how.resolve = resolve;
  return static_cast<int>(syscall(SYS_openat2, dir, path.c_str(), &how, sizeof how));
}

/// Runs `work` in a thread with a root and a working directory of its own, and gives back what it returns or throws.
template <typename Work>
UniqueFd in_own_directory(Work&& work) {
  UniqueFd result;
  in_thread([&] {
    if (unshare(CLONE_FS) != 0) fail_errno("a working directory of its own");
    result = work();
  });
  return result;
}

void enter_root(int dir, const std::string& where) {
  if (fchdir(dir) != 0 || chroot(".") != 0) fail_errno("{}: entering the root directory", where);
}

void bind_here(int fd, const UnixName& name, const std::string& where) {
  sockaddr_un address = {};
  const socklen_t size = address_of(name, address);
  if (::bind(fd, reinterpret_cast<sockaddr*>(&address), size) != 0) fail_errno("{}: binding to {}", where, name.shown());
}

UniqueFd open_socket_file(const std::string& path, const std::string& where) {
  UniqueFd file(open(path.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  struct stat st = {};
  if (!file || fstat(file.get(), &st) != 0) fail_errno("{}: {}", where, path);
  if (!S_ISSOCK(st.st_mode)) fail(EADDRINUSE, "{}: {}: is not a socket", where, path);
  return file;
}

bool has_socket(const struct stat& st) {
  for (const auto& [inode, socket] : list_unix_sockets()) {
    if (socket.file && socket.file->first == st.st_dev && socket.file->second == static_cast<uint32_t>(st.st_ino)) return true;
  }
  return false;
}

/// Whether the file is of a socket that is gone. One of another network namespace answers a connection.
bool is_stale(int path_fd, const struct stat& st) {
  if (has_socket(st)) return false;
  const UniqueFd probe(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_un address = {};
  const socklen_t size = address_of({fmt::format("/proc/self/fd/{}", path_fd)}, address);
  return ::connect(probe.get(), reinterpret_cast<sockaddr*>(&address), size) != 0 && errno == ECONNREFUSED;
}

void set_owner_and_mode(const RestoreContext& ctx, int path_fd, const SocketFile& file, const std::string& where) {
  const std::string self = fmt::format("/proc/self/fd/{}", path_fd);
  if (ctx.caller.privileged() && fchownat(path_fd, "", file.uid, file.gid, AT_EMPTY_PATH) != 0) {
    fail_errno("{}: owner of the socket's file", where);
  }
  if (chmod(self.c_str(), file.mode) != 0) fail_errno("{}: mode of the socket's file", where);
}

/// Takes the name away if it is still this file's.
void unlink_file(int dir, const std::string& path, int path_fd) {
  struct stat mine = {}, there = {};
  if (fstat(path_fd, &mine) != 0 || fstatat(dir, path.c_str(), &there, AT_SYMLINK_NOFOLLOW) != 0) return;
  if (mine.st_ino == there.st_ino && mine.st_dev == there.st_dev) unlinkat(dir, path.c_str(), 0);
}

bool is_own_root(int root_fd) {
  struct stat root = {}, own = {};
  return fstat(root_fd, &root) == 0 && stat("/", &own) == 0 && root.st_ino == own.st_ino && root.st_dev == own.st_dev;
}

/// Runs `work` where the process resolves its paths, with the rights of the caller.
template <typename Work>
UniqueFd as_the_process(const RestoreContext& ctx, const UnixName& name, const std::string& where, Work&& work) {
  return in_own_directory([&] {
    UniqueFd cwd;
    if (!name.bytes.starts_with('/')) {
      const AsCaller rights(ctx.caller);
      cwd = open_at(AT_FDCWD, ctx.image->read_link(ctx.prefix + "cwd"), O_PATH | O_DIRECTORY);
    }
    if (ctx.root_fd >= 0 && !is_own_root(ctx.root_fd)) enter_root(ctx.root_fd, where);
    const AsCaller rights(ctx.caller);
    if (cwd && fchdir(cwd.get()) != 0) fail_errno("{}: the working directory", where);
    return work();
  });
}

std::string parent_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
}

/// The file that stands in the way and may be taken away: a socket's that is gone. None where the name is free.
UniqueFd stale_file(const RestoreContext& ctx, const UnixName& name, const SocketFile& recorded, const std::string& where) {
  UniqueFd there = as_the_process(ctx, name, where, [&] {
    UniqueFd file(open(name.bytes.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    if (!file && errno != ENOENT) fail_errno("{}: {}", where, name.shown());
    return file;
  });
  struct stat st = {};
  if (!there) return there;
  if (fstat(there.get(), &st) != 0) fail_errno("{}: {}", where, name.shown());
  if (!S_ISSOCK(st.st_mode) || st.st_uid != recorded.uid || !is_stale(there.get(), st)) {
    fail(EADDRINUSE, "{}: {}: something else has this name now", where, name.shown());
  }
  return there;
}

UniqueFd bind_file(const RestoreContext& ctx, int fd, const UnixName& name, const SocketFile& file,
                   const std::string& where) {
  const std::string& path = name.bytes;
  const UniqueFd stale = stale_file(ctx, name, file, where);
  const std::string last = path.substr(path.rfind('/') + 1);
  // What stood there before is as good as the new one: a file of a socket that nobody has.
  const bool leaves_trace = !stale && ctx.traces != nullptr;
  const auto directory = std::make_shared<UniqueFd>(as_the_process(ctx, name, where, [&] {
    return open_at(AT_FDCWD, parent_of(path), O_PATH | O_DIRECTORY);
  }));
  if (leaves_trace) {
    ctx.traces->guard({SYS_unlinkat, {ctx.traces->keep_open(directory), ctx.traces->keep(last), 0}});
  }
  UniqueFd made = as_the_process(ctx, name, where, [&] {
    if (stale) unlink_file(directory->get(), last, stale.get());
    umask(0777 & ~file.mode);
    bind_here(fd, name, where);
    return open_socket_file(path, where);
  });
  if (leaves_trace) {
    const auto kept = std::make_shared<UniqueFd>(fcntl(made.get(), F_DUPFD_CLOEXEC, 0));
    ctx.traces->made([directory, kept, last] { unlink_file(directory->get(), last, kept->get()); });
  }
  const AsCaller rights(ctx.caller);
  set_owner_and_mode(ctx, made.get(), file, where);
  return made;
}

/// A directory that nobody else sees and that goes when its last file is closed.
UniqueFd private_directory(const std::string& where) {
  const UniqueFd context(static_cast<int>(syscall(SYS_fsopen, "tmpfs", 1 /* FSOPEN_CLOEXEC */)));
  if (!context || syscall(SYS_fsconfig, context.get(), 6 /* FSCONFIG_CMD_CREATE */, nullptr, nullptr, 0) != 0) {
    fail_errno("{}: a filesystem for a name that leads nowhere", where);
  }
  UniqueFd mount(static_cast<int>(syscall(SYS_fsmount, context.get(), 1 /* FSMOUNT_CLOEXEC */, 0)));
  if (!mount) fail_errno("{}: a filesystem for a name that leads nowhere", where);
  return mount;
}

UniqueFd bind_nowhere(int fd, const UnixName& name, const std::string& where) {
  return in_own_directory([&] {
    enter_root(private_directory(where).get(), where);
    const std::string& path = name.bytes;
    for (size_t slash = path.find('/', 1); slash != std::string::npos; slash = path.find('/', slash + 1)) {
      if (mkdir(path.substr(0, slash).c_str(), 0700) != 0 && errno != EEXIST) fail_errno("{}: {}: mkdir", where, path);
    }
    bind_here(fd, name, where);
    return open_socket_file(path, where);
  });
}

}  // namespace

UnixName name_from(const sockaddr_un& address, socklen_t size) {
  constexpr size_t kHeader = offsetof(sockaddr_un, sun_path);
  if (size <= kHeader) return {};
  const size_t length = std::min<size_t>(size - kHeader, sizeof address.sun_path);
  if (address.sun_path[0] == '\0') return {std::string(address.sun_path, length)};
  return {std::string(address.sun_path, strnlen(address.sun_path, length))};
}

socklen_t address_of(const UnixName& name, sockaddr_un& out) {
  out = {};
  out.sun_family = AF_UNIX;
  std::memcpy(out.sun_path, name.bytes.data(), std::min(name.bytes.size(), sizeof out.sun_path));
  const size_t end = name.is_path() && name.bytes.size() < sizeof out.sun_path ? 1 : 0;  // the NUL of a path
  return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.bytes.size() + end);
}

std::optional<SocketFile> find_socket_file(const CaptureContext& ctx, const UnixName& name,
                                           const std::pair<dev_t, uint32_t>& file) {
  const bool absolute = name.bytes.starts_with('/');
  const UniqueFd dir(openat(ctx.proc_dir, absolute ? "root" : "cwd", O_PATH | O_DIRECTORY | O_CLOEXEC));
  const UniqueFd found(open_path_in(dir.get(), name.bytes, absolute ? RESOLVE_IN_ROOT : 0));
  struct stat st = {};
  if (!found || fstat(found.get(), &st) != 0 || !S_ISSOCK(st.st_mode)) return std::nullopt;
  if (st.st_dev != file.first || static_cast<uint32_t>(st.st_ino) != file.second) return std::nullopt;
  return SocketFile{st.st_mode & 07777, st.st_uid, st.st_gid};
}

UniqueFd bind_again(const RestoreContext& ctx, int fd, const UnixName& name, const std::optional<SocketFile>& file,
                    const std::string& where) {
  if (name.is_path()) return file ? bind_file(ctx, fd, name, *file, where) : bind_nowhere(fd, name, where);
  bind_here(fd, name, where);
  return {};
}

}  // namespace ckpt
