#include "engine/kinds/named_file.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include <algorithm>

#include "engine/base/error.h"
#include "engine/kinds/fd_flags.h"
#include "engine/kinds/file_handle.h"

namespace ckpt {

namespace {

bool is_system_root(int root_fd) {
  struct stat root = {}, mine = {};
  return fstat(root_fd, &mine) == 0 && stat("/", &root) == 0 && root.st_dev == mine.st_dev &&
         root.st_ino == mine.st_ino;
}

int openat2_retried(int dir, const char* path, int flags, unsigned mode, uint64_t resolve) {
  open_how how = {};
  how.flags = static_cast<uint64_t>(flags) | O_CLOEXEC;
  how.mode = mode;
  how.resolve = resolve;
  for (;;) {
    const long fd = syscall(SYS_openat2, dir, path, &how, sizeof how);
    // EAGAIN: a rename somewhere in the system raced with RESOLVE_IN_ROOT; openat2(2) says to retry.
    if (fd >= 0 || (errno != EAGAIN && errno != EINTR)) return static_cast<int>(fd);
  }
}

void check_type(const FoundFile& found, const Record& record) {
  const auto mode = static_cast<mode_t>(parse_mode(record));
  if ((found.st.st_mode & S_IFMT) == (mode & S_IFMT)) return;
  fail(ESTALE, "{}: is a file of another type now than at the checkpoint", found.name);
}

bool same_inode(const struct stat& st, const Record& record) {
  return record_dev(record) == st.st_dev && record.get_u64("inode") == st.st_ino;
}

bool all_digits(std::string_view word) {
  return !word.empty() && word.find_first_not_of("0123456789") == std::string_view::npos;
}

/// A forged path such as /proc/self/maps would lead to ourselves, and we may always read our own: nothing below a
/// process's directory is opened by name (self_fd.h does what is needed).
void refuse_process_directory(const FoundFile& found) {
  if (major(found.st.st_dev) != 0) return;
  struct statfs fs = {};
  if (fstatfs(found.path_fd.get(), &fs) != 0 || fs.f_type != PROC_SUPER_MAGIC) return;
  const std::string path = read_link(AT_FDCWD, fmt::format("/proc/self/fd/{}", found.path_fd.get()));
  for (size_t begin = 0; begin < path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    if (all_digits(std::string_view(path).substr(begin, end - begin))) {
      fail(EPERM, "{}: leads to a process's directory in /proc", found.name);
    }
    begin = end + 1;
  }
}

bool stat_path_fd(FoundFile& found, const Record& record) {
  if (fstat(found.path_fd.get(), &found.st) != 0) fail_errno("{}: fstat", found.name);
  refuse_process_directory(found);
  found.same_inode = same_inode(found.st, record);
  return found.same_inode;
}

}  // namespace

std::optional<std::string> path_below_root(const CaptureContext& ctx, const std::string& target) {
  const std::string root = ctx.root.empty() ? read_link(ctx.proc_dir, "root") : ctx.root;
  if (root == "/") return target;
  if (target == root) return "/";
  if (target.starts_with(root + "/")) return target.substr(root.size());
  return std::nullopt;
}

void capture_path(const CaptureContext& ctx, const std::string& target, Record& out) {
  const auto below = path_below_root(ctx, target);
  out.add("path", below.value_or(target));
  if (!below) out.add("outside_root", 1);
}

void capture_name(const CaptureContext& ctx, const OpenFd& fd, Record& out) {
  out.add("mode", fmt::format("{:#08o}", fd.st.st_mode));
  out.add("dev", fmt::format("{}:{}", major(fd.st.st_dev), minor(fd.st.st_dev)));
  out.add("inode", uint64_t{fd.st.st_ino});
  if (fd.fs_type.starts_with("fuse")) return;
  if (const auto handle = file_handle_of(ctx.proc_dir, fmt::format("fd/{}", fd.fd))) {
    out.add("handle", handle->text());
  }
}

uint32_t parse_mode(const Record& record) {
  const std::string text = record.get("mode");
  uint32_t mode = 0;
  for (const char c : text) {
    if (c < '0' || c > '7' || text.size() > 8) fail(EINVAL, "{}: mode '{}' is not octal", record.where(), escape(text));
    mode = mode * 8 + static_cast<uint32_t>(c - '0');
  }
  return mode;
}

dev_t record_dev(const Record& record, std::string_view field) {
  const std::string text = record.get(field);
  const size_t colon = std::min(text.find(':'), text.size());
  const auto maj = parse_u64(text.substr(0, colon));
  const auto min = parse_u64(colon < text.size() ? text.substr(colon + 1) : "");
  if (!maj || !min || *maj > UINT32_MAX || *min > UINT32_MAX) {
    fail(EINVAL, "{}: {} '{}' is not MAJOR:MINOR", record.where(), field, escape(text));
  }
  return makedev(static_cast<unsigned>(*maj), static_cast<unsigned>(*min));
}

void capture_rdev(const OpenFd& fd, Record& out) {
  out.add("rdev", fmt::format("{}:{}", major(fd.st.st_rdev), minor(fd.st.st_rdev)));
}

void check_rdev(const FoundFile& found, const Record& record) {
  const dev_t recorded = record_dev(record, "rdev");
  if (S_ISCHR(found.st.st_mode) && found.st.st_rdev == recorded) return;
  fail(ENXIO, "{}: is not the character device {}:{} any more", found.name, major(recorded), minor(recorded));
}

void set_position(int fd, const Record& record) {
  const uint64_t pos = record.get_u64("pos", INT64_MAX);
  // ESPIPE: a file of a FUSE filesystem, say, that has no position.
  if (pos != 0 && lseek(fd, static_cast<off_t>(pos), SEEK_SET) < 0 && errno != ESPIPE) {
    fail_errno("{}: setting the position {}", record.where(), pos);
  }
}

void set_owner_and_mode(const RestoreContext& ctx, int fd, const Record& record) {
  if (ctx.caller.privileged()) {
    const auto uid = static_cast<uid_t>(record.get_u64("uid", UINT32_MAX));
    const auto gid = static_cast<gid_t>(record.get_u64("gid", UINT32_MAX));
    if (fchown(fd, uid, gid) != 0) fail_errno("{}: chown to {}:{}", record.where(), uid, gid);
  }
  if (fchmod(fd, static_cast<mode_t>(parse_mode(record)) & 07777) != 0) fail_errno("{}: chmod", record.where());
}

UniqueFd open_in_root(const RestoreContext& ctx, const Record& record, const std::string& path, int flags,
                      unsigned mode) {
  if (!path.starts_with('/') || path.find('\0') != std::string::npos) {
    fail(EINVAL, "{}: '{}' is not an absolute path", record.where(), escape(path));
  }
  const bool system_path = ctx.root_fd < 0 || record.has("outside_root") || is_system_root(ctx.root_fd);
  UniqueFd fd(system_path ? openat2_retried(AT_FDCWD, path.c_str(), flags, mode, 0)
                          : openat2_retried(ctx.root_fd, path.c_str(), flags, mode, RESOLVE_IN_ROOT));
  if (!fd) fail_errno("{}: {}", record.where(), path);
  return fd;
}

FoundFile find_named(const RestoreContext& ctx, const Record& record, bool nofollow) {
  const std::string path = record.get("path");
  FoundFile found;
  found.name = record.where() + ": " + path;
  std::optional<Error> missing;
  try {
    found.path_fd = open_in_root(ctx, record, path, O_PATH | (nofollow ? O_NOFOLLOW : 0));
  } catch (const Error& e) {
    if (e.err() != ENOENT && e.err() != ENOTDIR) throw;
    missing = e;
  }
  if (!missing && stat_path_fd(found, record)) {
    check_type(found, record);
    return found;
  }
  // Renamed since, perhaps: the handle knows the inode and its generation, whatever its name.
  if (record.has("handle") && ctx.caller.privileged()) {
    FoundFile moved;
    moved.name = found.name;
    moved.path_fd = open_by_handle(FileHandle::parse(record.get("handle"), record.where()), record_dev(record));
    if (moved.path_fd && stat_path_fd(moved, record)) {
      check_type(moved, record);
      return moved;
    }
  }
  if (missing) throw *missing;
  check_type(found, record);
  return found;
}

UniqueFd open_found(const FoundFile& found, int flags) {
  // The magic link opens the very inode that was looked at, with the full permission check.
  const std::string link = fmt::format("/proc/self/fd/{}", found.path_fd.get());
  UniqueFd fd(open(link.c_str(), flags | O_CLOEXEC | O_NOCTTY));
  if (!fd) fail_errno("{}: open", found.name);
  return fd;
}

}  // namespace ckpt
