#include "engine/kinds/memory_object.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <charconv>
#include <memory>

#include "engine/base/error.h"
#include "engine/kinds/fd_flags.h"
#include "engine/kinds/memory_content.h"
#include "engine/kinds/named_file.h"
#include "engine/kinds/named_memory.h"
#include "engine/kinds/pipe.h"
#include "engine/kinds/sysv_shm.h"

namespace ckpt {

namespace {

constexpr std::string_view kDeleted = " (deleted)";
constexpr std::string_view kMemfd = "/memfd:";
constexpr uint64_t kAllSeals = 0x3f;  // F_SEAL_SEAL ... F_SEAL_EXEC
constexpr uint64_t kLateSeals = F_SEAL_FUTURE_WRITE | F_SEAL_SEAL;
constexpr uint64_t kSealExec = 0x20;  // F_SEAL_EXEC, Linux 6.3
constexpr unsigned kNoexecSeal = 8;   // MFD_NOEXEC_SEAL, Linux 6.3

std::string without_suffix(std::string name) {
  if (name.ends_with(kDeleted)) name.resize(name.size() - kDeleted.size());
  return name;
}

/// kind, and name or path. `st` of its file; where the kernel keeps the permissions elsewhere they are put there.
void capture_identity(const CaptureContext& ctx, int fd, const std::string& link, struct stat& st, Record& out) {
  struct statfs fs = {};
  if (fstatfs(fd, &fs) != 0) fail_errno("{}: {}: fstatfs", ctx.pid, link);
  if (fs.f_type == HUGETLBFS_MAGIC) {
    fail(EOPNOTSUPP, "{}: memory in huge pages ({}) cannot be checkpointed", ctx.pid, link);
  }
  if (link.starts_with(kMemfd)) {
    out.add("kind", "memfd");
    out.add("name", without_suffix(link.substr(kMemfd.size())));
  } else if (is_segment(link)) {
    capture_segment(ctx, link, st, out);
  } else if (link.starts_with("/dev/zero")) {
    out.add("kind", "shmem");
  } else if (link.starts_with("/secretmem")) {
    fail(EOPNOTSUPP, "{}: secret memory cannot be checkpointed", ctx.pid);
  } else if (!link.ends_with(kDeleted)) {
    capture_named(ctx, fd, link, st, out);
  } else if (const auto name = other_name(ctx, fd, without_suffix(link), st)) {
    capture_named(ctx, fd, *name, st, out);
  } else {
    out.add("kind", "deleted");
    capture_path(ctx, without_suffix(link), out);
  }
}

/// Opened again for reading: the descriptor at hand may be write-only, and a time of access is not ours to change.
UniqueFd reopen_readable(int fd, const std::string& where) {
  const std::string self = fmt::format("/proc/self/fd/{}", fd);
  UniqueFd again(open(self.c_str(), O_RDONLY | O_NOATIME | O_CLOEXEC));
  if (!again) again.reset(open(self.c_str(), O_RDONLY | O_CLOEXEC));
  if (!again && (fcntl(fd, F_GETFL) & O_ACCMODE) != O_WRONLY) again.reset(fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (!again) fail_errno("{}: opening it for reading", where);
  return again;
}

UniqueFd make_memfd(const std::string& name, uint64_t seals, const std::string& where) {
  const unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING | ((seals & kSealExec) != 0 ? kNoexecSeal : 0);
  UniqueFd fd(memfd_create(name.c_str(), flags));
  if (!fd) fail_errno("{}: memfd_create", where);
  return fd;
}

/// Shared anonymous memory as the kernel makes it, reached through map_files; that needs CAP_CHECKPOINT_RESTORE, and
/// a memfd does the same service.
UniqueFd make_shmem(uint64_t size, const std::string& where) {
  if (size != 0) {
    void* at = mmap(nullptr, size, PROT_NONE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) fail_errno("{}: {} bytes of shared memory", where, size);
    const auto start = reinterpret_cast<uint64_t>(at);
    const uint64_t end = start + (size + kPageSize - 1) / kPageSize * kPageSize;
    UniqueFd fd(open(fmt::format("/proc/self/map_files/{:x}-{:x}", start, end).c_str(), O_RDWR | O_CLOEXEC));
    munmap(at, size);
    if (fd) return fd;
  }
  return make_memfd("shared", 0, where);
}

UniqueFd make_deleted(const RestoreContext& ctx, const Record& record) {
  const std::string path = record.get("path");
  const std::string dir = path.substr(0, std::max<size_t>(path.rfind('/') + 1, 1));
  try {
    return open_in_root(ctx, record, dir, O_TMPFILE | O_RDWR, 0600);
  } catch (const Error& e) {
    if (e.err() == EINVAL) throw;
    // Its directory is gone, not ours to write to, or of a filesystem without O_TMPFILE: memory holds it as well.
    return make_memfd(path.substr(dir.size()).substr(0, 200), 0, record.where());
  }
}

UniqueFd make_object(const RestoreContext& ctx, const Record& record, uint64_t size, uint64_t seals) {
  const std::string kind = record.get("kind");
  if (kind == "memfd") {
    const std::string name = record.get("name");
    if (name.find('\0') != std::string::npos) fail(EINVAL, "{}: the name is malformed", record.where());
    return make_memfd(name, seals, record.where());
  }
  if (kind == "shmem") return make_shmem(size, record.where());
  if (kind == "deleted") return make_deleted(ctx, record);
  fail(EOPNOTSUPP, "{}: the kind '{}' is not known to this version", record.where(), escape(kind));
}

mode_t permissions(const Record& object) { return static_cast<mode_t>(parse_mode(object)) & 07777; }

void add_seals(int fd, uint64_t seals, const Record& object) {
  // A seal against later writers would forbid the mappings that are still to be made; finish_memory_object adds it.
  if ((seals & F_SEAL_FUTURE_WRITE) != 0) seals &= ~kLateSeals;
  if (seals != 0 && fcntl(fd, F_ADD_SEALS, static_cast<int>(seals)) != 0) {
    fail_errno("{}: adding the seals {:#x}", object.where(), seals);
  }
}

}  // namespace

bool is_unnamed(const OpenFd& fd) {
  return S_ISREG(fd.st.st_mode) && fd.st.st_nlink == 0 && fd.target.starts_with('/') &&
         !fd.target.starts_with("/secretmem");
}

std::string memory_object_name(uint32_t dev_major, uint32_t dev_minor, uint64_t inode) {
  return fmt::format("memory-{}-{}-{}", dev_major, dev_minor, inode);
}

Record memory_object_record(const RestoreContext& ctx, const std::string& name) {
  const std::string path = "objects/" + name;
  return Record::parse(ctx.image->read(path, 1 << 20), ctx.image->describe() + "/" + path);
}

std::string capture_memory_object(const CaptureContext& ctx, int fd, const std::string& link) {
  struct stat st = {};
  if (fstat(fd, &st) != 0) fail_errno("{}: {}: fstat", ctx.pid, link);
  const std::string name = memory_object_name(major(st.st_dev), minor(st.st_dev), st.st_ino);
  if (!ctx.first(name)) return name;
  const std::string where = fmt::format("{}: {}", ctx.pid, link);
  Record out;
  capture_identity(ctx, fd, link, st, out);
  out.add("size", static_cast<uint64_t>(st.st_size));
  out.add("mode", fmt::format("{:#08o}", st.st_mode));
  out.add("uid", st.st_uid);
  out.add("gid", st.st_gid);
  const int seals = link.starts_with(kMemfd) ? fcntl(fd, F_GET_SEALS) : -1;
  if (seals >= 0) out.add_hex("seals", static_cast<uint64_t>(seals));
  ctx.image->put("objects/" + name, out.text());
  if (!ctx.memory && out.get("kind") != "deleted") return name;
  const bool constant = seals >= 0 && (seals & F_SEAL_WRITE) != 0 && (seals & F_SEAL_SHRINK) != 0;
  capture_content(ctx, reopen_readable(fd, where), static_cast<uint64_t>(st.st_size), constant,
                  "objects/" + name + ".data", where);
  return name;
}

int restore_memory_object(const RestoreContext& ctx, const std::string& name) {
  const auto made = ctx.objects->find(name);
  if (made != ctx.objects->end()) return made->second.get();
  const Record object = memory_object_record(ctx, name);
  const std::string content = "objects/" + name + ".data";
  const uint64_t size = object.get_u64("size", INT64_MAX);
  if (object.get("kind") == "named") {
    return ctx.objects->emplace(name, restore_named_memory(ctx, object, size, content)).first->second.get();
  }
  const uint64_t seals = object.get_u64_or("seals", 0) & kAllSeals;
  const bool segment = object.get("kind") == "sysv";  // made with its size, owner and mode
  UniqueFd fd = segment ? restore_segment(ctx, object, size) : make_object(ctx, object, size, seals);
  if (!segment && ftruncate(fd.get(), static_cast<off_t>(size)) != 0) {
    fail_errno("{}: setting the size {}", object.where(), size);
  }
  restore_content(ctx, fd.get(), size, content);
  if (!segment) set_owner_and_mode(ctx, fd.get(), object);
  add_seals(fd.get(), seals, object);
  return ctx.objects->emplace(name, std::move(fd)).first->second.get();
}

UniqueFd open_memory_object(const RestoreContext& ctx, const std::string& name, const Record& record) {
  const int object_fd = restore_memory_object(ctx, name);
  const Record object = memory_object_record(ctx, name);
  const mode_t mode = permissions(object);
  // Its owner could open it when it was new, whatever the permissions are now.
  const bool closed_to_owner = (mode & 0600) != 0600;
  if (closed_to_owner) fchmod(object_fd, mode | 0600);
  const int flags = open_flags(record) & ~O_DIRECTORY;
  UniqueFd fd(open(fmt::format("/proc/self/fd/{}", object_fd).c_str(), flags));
  const int err = errno;
  if (closed_to_owner) fchmod(object_fd, mode);
  errno = err;
  if (!fd) fail_errno("{}: opening {}", record.where(), name);
  set_position(fd.get(), record);
  return fd;
}

void finish_memory_object(const RestoreContext& ctx, const std::string& name, int fd, Remote& leader) {
  const uint64_t seals = memory_object_record(ctx, name).get_u64_or("seals", 0) & kAllSeals;
  if ((seals & F_SEAL_FUTURE_WRITE) == 0) return;
  const long flags = leader.call("fcntl(F_GETFL)", SYS_fcntl, static_cast<uint64_t>(fd), F_GETFL);
  if ((flags & O_ACCMODE) == O_RDONLY) return;  // sealing wants a writable descriptor; another one will do it
  // EPERM: F_SEAL_SEAL is set already, through another descriptor of the same object.
  const long result = leader.syscall(SYS_fcntl, static_cast<uint64_t>(fd), F_ADD_SEALS, seals);
  if (result < 0 && result != -EPERM) {
    fail(static_cast<int>(-result), "{}: adding the seals {:#x}: {}", name, seals,
         errno_text(static_cast<int>(-result)));
  }
}

}  // namespace ckpt
