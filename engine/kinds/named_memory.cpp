#include "engine/kinds/named_memory.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <memory>
#include <thread>

#include "engine/base/error.h"
#include "engine/kinds/file_handle.h"
#include "engine/kinds/memory_content.h"
#include "engine/kinds/memory_object.h"
#include "engine/kinds/named_file.h"
#include "engine/memory/mapped_files.h"
#include "engine/process/as_caller.h"

namespace ckpt {

namespace fs = std::filesystem;

namespace {

/// For the processes that had the file open, just killed, to let go of it.
constexpr std::chrono::milliseconds kPatience{200};

bool is_on_tmpfs(int fd) {
  struct statfs fs = {};
  return fstatfs(fd, &fs) == 0 && fs.f_type == TMPFS_MAGIC;
}

/// A write lease is given only to the one who has the file open (check_conflicting_open() in fs/locks.c); mappings count. It is
/// given to the file's owner and to CAP_LEASE: what another user's is stays as it is.
bool is_only_ours(int fd, const std::string& where) {
  // Who opens the file meanwhile makes the kernel send a signal. SIGIO, which it would be, ends a program; this one does nothing.
  if (fcntl(fd, F_SETSIG, SIGURG) != 0) fail_errno("{}: F_SETSIG", where);
  const auto patience = std::chrono::steady_clock::now() + kPatience;
  while (fcntl(fd, F_SETLEASE, F_WRLCK) != 0) {
    if (errno == EACCES) return false;
    if (errno != EAGAIN) fail_errno("{}: F_SETLEASE", where);
    if (std::chrono::steady_clock::now() > patience) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  fcntl(fd, F_SETLEASE, F_UNLCK);
  return true;
}

void set_mtime(int fd, const timespec& modified, const std::string& where) {
  const timespec times[2] = {{0, UTIME_OMIT}, modified};
  if (futimens(fd, times) != 0) fail_errno("{}: setting the time of modification", where);
}

/// All of a file over the content of another; holes stay holes, or a huge empty file would take all memory. Throws Error.
void copy_over(int from, int to, const std::string& where) {
  struct stat st {};
  if (fstat(from, &st) != 0 || ftruncate(to, 0) != 0 || ftruncate(to, st.st_size) != 0) fail_errno("{}", where);
  off_t end = 0;
  for (off_t at = 0; (at = lseek(from, end, SEEK_DATA)) >= 0;) {
    end = lseek(from, at, SEEK_HOLE);
    if (end < 0 || lseek(to, at, SEEK_SET) != at) fail_errno("{}: copying its content", where);
    while (at < end) {
      if (sendfile(to, from, &at, static_cast<size_t>(end - at)) <= 0) fail_errno("{}: copying its content", where);
    }
  }
}

/// The file's content and its time come back, should the resume fail.
void keep_content(const RestoreContext& ctx, int fd, const std::string& where) {
  if (ctx.traces == nullptr) return;
  auto file = std::make_shared<UniqueFd>(fcntl(fd, F_DUPFD_CLOEXEC, 0));
  auto kept = std::make_shared<UniqueFd>(memfd_create("kept", MFD_CLOEXEC));
  if (!*file || !*kept) fail_errno("{}: memfd_create", where);
  struct stat st {};
  if (fstat(fd, &st) != 0) fail_errno("{}: fstat", where);
  copy_over(fd, kept->get(), where);
  ctx.traces->made([file, kept, where, modified = st.st_mtim] {
    try {
      copy_over(kept->get(), file->get(), where);
      set_mtime(file->get(), modified, where);
    } catch (const Error&) {
      // Memory was there for it before; if it is not now, nothing can be done.
    }
  });
}

UniqueFd make_file(const RestoreContext& ctx, const Record& object, const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string name = path.substr(slash + 1);
  const auto dir = std::make_shared<UniqueFd>(open_in_root(ctx, object, path.substr(0, slash + 1), O_PATH | O_DIRECTORY));
  if (!is_on_tmpfs(dir->get())) fail(ESTALE, "{}: {}: the directory is on no tmpfs", object.where(), path);
  if (ctx.traces != nullptr) {
    ctx.traces->guard({SYS_unlinkat, {ctx.traces->keep_open(dir), ctx.traces->keep(name), 0}});
  }
  UniqueFd fd(openat(dir->get(), name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!fd) fail_errno("{}: making {}", object.where(), path);
  if (ctx.traces != nullptr) ctx.traces->made([dir, name] { unlinkat(dir->get(), name.c_str(), 0); });
  return fd;
}

/// The file where it is there; none where it must be made. Nothing but a regular file of a tmpfs is opened, and none of
/// another user than the one it belonged to: he would have made it to read what we put in.
UniqueFd find_file(const RestoreContext& ctx, const Record& object) {
  std::optional<FoundFile> found;
  try {
    found = find_named(ctx, object, true);
  } catch (const Error& e) {
    if (e.err() != ENOENT) throw;
    return {};
  }
  if (!S_ISREG(found->st.st_mode) || !is_on_tmpfs(found->path_fd.get())) {
    fail(ESTALE, "{}: is not a regular file on a tmpfs any more", found->name);
  }
  if (found->st.st_uid != object.get_u64("uid", UINT32_MAX)) {
    fail(ESTALE, "{}: is another user's now ({})", found->name, found->st.st_uid);
  }
  return open_found(*found, O_RDWR);
}

}  // namespace

void capture_named_memory(const CaptureContext& ctx, const std::vector<Vma>& vmas) {
  std::optional<std::set<std::string>> tmpfs;
  for (const Vma& vma : vmas) {
    // A tmpfs has no block device.
    if (vma.dev_major != 0 || !maps_named_file(vma) || !needs_write_access(vma)) continue;
    if (ctx.objects->contains(memory_object_name(vma.dev_major, vma.dev_minor, vma.inode))) continue;
    if (!tmpfs) tmpfs = devices_of(ctx, "tmpfs ");
    if (!tmpfs->contains(fmt::format("{}:{}", vma.dev_major, vma.dev_minor))) continue;
    const UniqueFd fd = hold_file(ctx, vma);
    if (!fd) fail_errno("{}: {}: open", ctx.pid, vma.name());
    capture_memory_object(ctx, fd.get(), vma.path);
  }
}

void capture_named(const CaptureContext& ctx, int fd, const std::string& path, const struct stat& st, Record& out) {
  out.add("kind", "named");
  capture_path(ctx, path, out);
  out.add("dev", fmt::format("{}:{}", major(st.st_dev), minor(st.st_dev)));
  out.add("inode", uint64_t{st.st_ino});
  if (const auto handle = file_handle_of(AT_FDCWD, fmt::format("/proc/self/fd/{}", fd))) out.add("handle", handle->text());
  out.add("mtime_ns", int64_t{st.st_mtim.tv_sec} * 1'000'000'000 + st.st_mtim.tv_nsec);
}

std::optional<std::string> other_name(const CaptureContext& ctx, int fd, const std::string& path, const struct stat& st) {
  if (st.st_nlink == 0 || !is_on_tmpfs(fd)) return std::nullopt;
  const std::string dir = path.substr(0, path.rfind('/') + 1);
  const auto below = path_below_root(ctx, dir);
  if (!below) return std::nullopt;
  std::error_code error;
  for (fs::directory_iterator it(fmt::format("/proc/{}/root{}", ctx.pid, *below), error), end; !error && it != end; it.increment(error)) {
    struct stat other {};
    if (lstat(it->path().c_str(), &other) != 0) continue;
    if (other.st_dev == st.st_dev && other.st_ino == st.st_ino) return dir + it->path().filename().string();
  }
  return std::nullopt;
}

UniqueFd restore_named_memory(const RestoreContext& ctx, const Record& object, uint64_t size, const std::string& content) {
  const AsCaller rights(ctx.caller);
  const std::string path = object.get("path");
  const std::string where = object.where() + ": " + path;
  UniqueFd fd = find_file(ctx, object);
  if (fd) {
    if (!is_only_ours(fd.get(), where)) return fd;
    keep_content(ctx, fd.get(), where);
    if (ftruncate(fd.get(), 0) != 0) fail_errno("{}: ftruncate", where);
  } else {
    fd = make_file(ctx, object, path);
    set_owner_and_mode(ctx, fd.get(), object);
  }
  if (ftruncate(fd.get(), static_cast<off_t>(size)) != 0) fail_errno("{}: setting the size {}", where, size);
  restore_content(ctx, fd.get(), size, content);
  const int64_t ns = object.get_i64("mtime_ns");
  set_mtime(fd.get(), {ns / 1'000'000'000, ns % 1'000'000'000}, where);
  return fd;
}

void bring_back_named_memory(const RestoreContext& ctx, const Record& file) {
  if (!file.has("dev")) return;
  const dev_t dev = record_dev(file);
  if (major(dev) != 0) return;
  const std::string name = memory_object_name(0, minor(dev), file.get_u64("inode"));
  if (!ctx.image->has("objects/" + name) || memory_object_record(ctx, name).get("kind") != "named") return;
  restore_memory_object(ctx, name);
}

}  // namespace ckpt
