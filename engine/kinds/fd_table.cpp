// Reading /proc/PID/fd: link text, stat and fdinfo of every descriptor.

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <charconv>
#include <memory>

#include "engine/base/error.h"
#include "engine/kinds/kind.h"
#include "engine/process/procfs.h"

namespace ckpt {

namespace {

/// statx without asking a network or FUSE server: the server may be ourselves, or wait for the stopped process.
bool stat_cached(int dir, const std::string& path, struct stat& st) {
  struct statx stx = {};
  if (statx(dir, path.c_str(), AT_STATX_DONT_SYNC, STATX_BASIC_STATS, &stx) != 0) return false;
  st = {};
  st.st_dev = makedev(stx.stx_dev_major, stx.stx_dev_minor);
  st.st_rdev = makedev(stx.stx_rdev_major, stx.stx_rdev_minor);
  st.st_ino = stx.stx_ino;
  st.st_mode = stx.stx_mode;
  st.st_nlink = stx.stx_nlink;
  st.st_uid = stx.stx_uid;
  st.st_gid = stx.stx_gid;
  st.st_size = static_cast<off_t>(stx.stx_size);
  st.st_blksize = stx.stx_blksize;
  st.st_blocks = static_cast<blkcnt_t>(stx.stx_blocks);
  st.st_mtim = {stx.stx_mtime.tv_sec, static_cast<long>(stx.stx_mtime.tv_nsec)};
  st.st_ctim = {stx.stx_ctime.tv_sec, static_cast<long>(stx.stx_ctime.tv_nsec)};
  return true;
}

std::vector<int> list_numbers(int proc_dir, pid_t pid) {
  UniqueFd dir_fd(openat(proc_dir, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!dir_fd) fail_errno("{}: /proc/{}/fd", pid, pid);
  const int own = dir_fd.get();
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(fdopendir(own), closedir);
  if (!dir) fail_errno("{}: /proc/{}/fd", pid, pid);
  dir_fd.release();
  std::vector<int> numbers;
  errno = 0;
  while (const dirent* entry = readdir(dir.get())) {
    int number = 0;
    const std::string_view name = entry->d_name;
    const auto [end, err] = std::from_chars(name.data(), name.data() + name.size(), number);
    if (err != std::errc{} || end != name.data() + name.size()) continue;
    if (pid == getpid() && number == own) continue;  // reading ourselves: not a descriptor of the caller's
    numbers.push_back(number);
  }
  if (errno != 0) fail_errno("{}: /proc/{}/fd", pid, pid);
  std::sort(numbers.begin(), numbers.end());
  return numbers;
}

uint64_t parse_number(const std::optional<std::string>& text, int base) {
  uint64_t value = 0;
  if (text) std::from_chars(text->data(), text->data() + text->size(), value, base);
  return value;
}

/// fdinfo in one read where it is short: with ten thousand descriptors every system call counts.
std::string read_fdinfo(int info_dir, const std::string& name) {
  const UniqueFd file = open_at(info_dir, name, O_RDONLY);
  char buffer[2048];
  const ssize_t n = ::read(file.get(), buffer, sizeof buffer);
  if (n < 0) fail_errno("fdinfo/{}: read", name);
  std::string text(buffer, static_cast<size_t>(n));
  if (text.size() == sizeof buffer) text += read_all(file.get(), "fdinfo/" + name);
  return text;
}

/// Nothing where the descriptor was closed meanwhile (the process may be running).
std::optional<OpenFd> read_fd(int fd_dir, int info_dir, int number) {
  OpenFd fd;
  fd.fd = number;
  const std::string name = fmt::to_string(number);
  try {
    fd.target = read_link(fd_dir, name);
    fd.fdinfo = read_fdinfo(info_dir, name);
  } catch (const Error& e) {
    if (e.err() == ENOENT) return std::nullopt;
    throw;
  }
  if (!stat_cached(fd_dir, name, fd.st)) {
    if (errno == ENOENT) return std::nullopt;
    fail_errno("/proc: fd {} ({}): statx", number, fd.target);
  }
  fd.pos = parse_number(fd.info("pos"), 10);
  fd.flags = static_cast<uint32_t>(parse_number(fd.info("flags"), 8));
  fd.mnt_id = static_cast<int>(parse_number(fd.info("mnt_id"), 10));
  return fd;
}

void fill_mount_types(std::vector<OpenFd>& fds, int proc_dir) {
  std::optional<std::map<int, std::string>> types;
  for (OpenFd& fd : fds) {
    // Filesystems without a block device have major 0; the others need no special treatment.
    if (major(fd.st.st_dev) != 0 || !fd.target.starts_with('/')) continue;
    if (!types) types = read_mount_types(proc_dir);
    const auto it = types->find(fd.mnt_id);
    if (it != types->end()) fd.fs_type = it->second;
  }
}

}  // namespace

std::optional<std::string> OpenFd::info(std::string_view name) const {
  auto lines = info_lines(name);
  if (lines.empty()) return std::nullopt;
  return std::move(lines[0]);
}

std::vector<std::string> OpenFd::info_lines(std::string_view name) const {
  std::vector<std::string> values;
  std::string_view rest = fdinfo;
  while (!rest.empty()) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (!line.starts_with(name)) continue;
    line.remove_prefix(name.size());
    if (line.empty() || (line[0] != ':' && line[0] != ' ')) continue;
    const size_t begin = line.find_first_not_of(" \t", 1);
    values.emplace_back(begin == std::string_view::npos ? std::string_view() : line.substr(begin));
  }
  return values;
}

OpenFd read_own_fd(int fd) {
  const UniqueFd self = open_at(AT_FDCWD, "/proc/self", O_RDONLY | O_DIRECTORY);
  const UniqueFd fd_dir = open_at(self.get(), "fd", O_RDONLY | O_DIRECTORY);
  const UniqueFd info_dir = open_at(self.get(), "fdinfo", O_RDONLY | O_DIRECTORY);
  std::vector<OpenFd> one;
  if (auto info = read_fd(fd_dir.get(), info_dir.get(), fd)) one.push_back(std::move(*info));
  if (one.empty()) fail(EBADF, "descriptor {}: is not open", fd);
  fill_mount_types(one, self.get());
  one.front().pid = ::getpid();
  return std::move(one.front());
}

std::vector<OpenFd> read_fd_table(pid_t pid, int proc_dir) {
  std::vector<OpenFd> fds;
  const std::vector<int> numbers = list_numbers(proc_dir, pid);
  const UniqueFd fd_dir = open_at(proc_dir, "fd", O_RDONLY | O_DIRECTORY);
  const UniqueFd info_dir = open_at(proc_dir, "fdinfo", O_RDONLY | O_DIRECTORY);
  fds.reserve(numbers.size());
  for (const int number : numbers) {
    auto fd = read_fd(fd_dir.get(), info_dir.get(), number);
    if (!fd) continue;
    fd->pid = pid;
    fds.push_back(std::move(*fd));
  }
  fill_mount_types(fds, proc_dir);
  std::vector<OpenFd>* const table = &fds;
  find_shared_descriptions({&table, 1});
  return fds;
}

}  // namespace ckpt
