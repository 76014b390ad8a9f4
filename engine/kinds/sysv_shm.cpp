#include "engine/kinds/sysv_shm.h"

#include <fcntl.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <thread>

#include "engine/base/error.h"
#include "engine/kinds/named_file.h"
#include "engine/kinds/sharing.h"
#include "engine/kinds/sysv_ipc.h"
#include "engine/memory/mapped_files.h"
#include "engine/process/procfs.h"

namespace ckpt {

namespace {

constexpr unsigned kPermissions = 0777;

/// Attachments of the checkpoint: each mapping is one (shm_open() in ipc/shm.c).
uint64_t attachments_inside(const CaptureContext& ctx, ino_t id) {
  std::vector<pid_t> pids;
  std::map<pid_t, uint64_t> attachments;
  for (const pid_t pid : ctx.tree->pids) {
    try {
      for (const Mapping& mapping : parse_mappings(read_file(fmt::format("/proc/{}/maps", pid)))) {
        if (mapping.inode == id && is_segment(mapping.path)) ++attachments[pid];
      }
      pids.push_back(pid);
    } catch (const Error&) {
      // A zombie, which the stop did not hold, and which has been waited for meanwhile.
    }
  }
  const auto sharing = find_sharing(pids);
  uint64_t count = 0;
  for (const auto& [pid, own] : attachments) {
    // Of memory that several processes share once.
    const auto shares = sharing.find(pid);
    if (shares == sharing.end() || shares->second.memory == 0) count += own;
  }
  return count;
}

/// An attachment of ours, which keeps a removed segment.
class Attachment {
 public:
  Attachment(int id, const std::string& where) : at_(shmat(id, nullptr, 0)) {
    if (at_ == kFailed) fail_errno("{}: shmat", where);
  }
  Attachment(const Attachment&) = delete;
  Attachment& operator=(const Attachment&) = delete;
  ~Attachment() { shmdt(at_); }

  /// The file behind it.
  UniqueFd open_file(uint64_t size, const std::string& where) const {
    const auto start = reinterpret_cast<uint64_t>(at_);
    const uint64_t end = start + (size + kPageSize - 1) / kPageSize * kPageSize;
    UniqueFd fd(open(fmt::format("/proc/self/map_files/{:x}-{:x}", start, end).c_str(), O_RDWR | O_CLOEXEC));
    if (!fd) fail_errno("{}: opening the segment", where);
    return fd;
  }

 private:
  static inline void* const kFailed = reinterpret_cast<void*>(-1);
  void* at_;
};

struct Segment {
  int id = -1;
  key_t key = IPC_PRIVATE;
  bool removed = false;
  bool locked = false;
};

Segment parse_segment(const Record& object) {
  Segment segment;
  segment.id = static_cast<int>(object.get_u64("id", INT32_MAX));
  segment.key = static_cast<key_t>(object.get_u64("key", UINT32_MAX));
  segment.removed = object.get_u64_or("removed", 0) != 0;
  segment.locked = object.get_u64_or("locked", 0) != 0;
  return segment;
}

/// Whether it is there, with nobody attached. The processes of before, just killed, take a moment to let go of it.
bool find_unused(const Segment& wanted, uint64_t size, const std::string& where) {
  const auto patience = std::chrono::steady_clock::now() + std::chrono::seconds(2);
  shmid_ds ds = {};
  while (shmctl(wanted.id, IPC_STAT, &ds) == 0) {
    if (ds.shm_nattch == 0) {
      if (!wanted.removed && ds.shm_perm.__key == wanted.key && ds.shm_segsz == size) return true;
      fail(EEXIST, "{}: the id {} is that of another System V shared memory segment", where, wanted.id);
    }
    if (std::chrono::steady_clock::now() > patience) {
      fail(EEXIST, "{}: the System V shared memory segment {} exists, attached {} times", where, wanted.id,
           ds.shm_nattch);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  if (const int other = wanted.key == IPC_PRIVATE ? -1 : shmget(wanted.key, 0, 0); other >= 0) {
    fail(EEXIST, "{}: the key {:#x} is that of another System V shared memory segment ({})", where,
         static_cast<uint32_t>(wanted.key), other);
  }
  return false;
}

void create(const Segment& wanted, uint64_t size, const std::string& where) {
  choose_next_id("shm", wanted.id, where);
  const int got = shmget(wanted.key, size, IPC_CREAT | IPC_EXCL | 0600);
  if (got == wanted.id) return;
  const int err = errno;
  if (got >= 0) {
    shmctl(got, IPC_RMID, nullptr);  // somebody else has made one with the id at this moment, or it is beyond the limits
    fail(EEXIST, "{}: the id {} of a System V shared memory segment cannot be had", where, wanted.id);
  }
  fail(err, "{}: shmget of {} bytes: {}", where, size, errno_text(err));
}

void set_permissions(const Segment& segment, const Record& object) {
  shmid_ds ds = {};
  ds.shm_perm.uid = static_cast<uid_t>(object.get_u64("uid", UINT32_MAX));
  ds.shm_perm.gid = static_cast<gid_t>(object.get_u64("gid", UINT32_MAX));
  ds.shm_perm.mode = static_cast<decltype(ds.shm_perm.mode)>(parse_mode(object) & kPermissions);
  if (shmctl(segment.id, IPC_SET, &ds) != 0) fail_errno("{}: IPC_SET", object.where());
  if (segment.locked && shmctl(segment.id, SHM_LOCK, nullptr) != 0) fail_errno("{}: SHM_LOCK", object.where());
  if (segment.removed && shmctl(segment.id, IPC_RMID, nullptr) != 0) fail_errno("{}: IPC_RMID", object.where());
}

[[noreturn]] void fail_attach(const Remote& leader, const Vma& vma, const char* call, long result) {
  const int err = static_cast<int>(-result);
  fail(err, "{}: {}: {}: {}", leader.pid(), vma.name(), call, errno_text(err));
}

bool is_error(long result) { return result < 0 && result > -4096; }

/// The mappings of one shmat(2): shmdt(2) of the address that it gave takes them all.
struct Attached {
  uint64_t base = 0;              ///< that address
  std::vector<const Vma*> parts;  ///< ascending
};

/// The whole segment, at the address it had; elsewhere where something else has a part of this range now.
uint64_t attach_whole(Remote& leader, const Attached& attached) {
  const Vma& first = *attached.parts.front();
  const uint64_t flags = needs_write_access(first) ? 0 : SHM_RDONLY;
  long at = leader.syscall(SYS_shmat, first.inode, attached.base, flags);
  if (at == -EINVAL) at = leader.syscall(SYS_shmat, first.inode, 0, flags);
  if (is_error(at)) fail_attach(leader, first, "shmat", at);
  return static_cast<uint64_t>(at);
}

void attach(Remote& leader, const Attached& attached, uint64_t size) {
  const uint64_t whole = attach_whole(leader, attached);
  uint64_t done = 0;  // of the segment
  for (const Vma* part : attached.parts) {
    if (part->offset > done) leader.call("munmap", SYS_munmap, whole + done, part->offset - done);
    done = part->offset + part->size();
    if (whole != attached.base) {
      const long moved = leader.syscall(SYS_mremap, whole + part->offset, part->size(), part->size(),
                                        MREMAP_MAYMOVE | MREMAP_FIXED, part->start);
      if (is_error(moved)) fail_attach(leader, *part, "mremap", moved);
    }
    leader.call("mprotect", SYS_mprotect, part->start, part->size(), part->prot);
  }
  if (size > done) leader.call("munmap", SYS_munmap, whole + done, size - done);
}

}  // namespace

bool is_segment(std::string_view link) { return link.starts_with("/SYSV"); }

bool attaches_segment(const Vma& vma) { return vma.unnamed_file() && is_segment(vma.path); }

void capture_segment(const CaptureContext& ctx, const std::string& link, struct stat& st, Record& out) {
  shmid_ds ds = {};
  const auto id = static_cast<int>(st.st_ino);  // newseg() in ipc/shm.c
  if (shmctl(id, IPC_STAT, &ds) != 0) fail_errno("{}: {}: shmctl", ctx.pid, link);
  if (const uint64_t inside = attachments_inside(ctx, st.st_ino); ds.shm_nattch > inside) {
    fail(EOPNOTSUPP, "{}: the System V shared memory segment {}, which a process outside the process tree has attached "
         "({} of {} attachments are inside), cannot be checkpointed", ctx.pid, id, inside, ds.shm_nattch);
  }
  const unsigned mode = ds.shm_perm.mode;
  out.add("kind", "sysv");
  out.add("id", id);
  out.add_hex("key", static_cast<uint32_t>((mode & SHM_DEST) != 0 ? IPC_PRIVATE : ds.shm_perm.__key));
  if ((mode & SHM_DEST) != 0) out.add("removed", 1);
  if ((mode & SHM_LOCKED) != 0) out.add("locked", 1);
  st.st_mode = S_IFREG | (mode & kPermissions);
  st.st_uid = ds.shm_perm.uid;
  st.st_gid = ds.shm_perm.gid;
}

UniqueFd restore_segment(const RestoreContext& ctx, const Record& object, uint64_t size) {
  if (!ctx.caller.privileged()) {
    fail(EPERM, "{}: only root may resume a process with System V shared memory", object.where());
  }
  const Segment segment = parse_segment(object);
  const bool exists = find_unused(segment, size, object.where());
  if (!exists) {
    ctx.traces->guard({SYS_shmctl, {segment.id, IPC_RMID}});
    create(segment, size, object.where());
    ctx.traces->made([id = segment.id] { shmctl(id, IPC_RMID, nullptr); });
  }
  const auto attachment = std::make_shared<Attachment>(segment.id, object.where());
  ctx.kept->push_back(attachment);
  set_permissions(segment, object);
  UniqueFd fd = attachment->open_file(size, object.where());
  if (exists && fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(size)) != 0) {
    fail_errno("{}: clearing the segment", object.where());
  }
  return fd;
}

void check_attachment(const Record& object, const Vma& vma) {
  const uint64_t pages = (object.get_u64("size", INT64_MAX) + kPageSize - 1) / kPageSize * kPageSize;
  if (object.get("kind") != "sysv" || object.get_u64("id", INT32_MAX) != vma.inode || !vma.shared ||
      vma.offset >= vma.start || vma.offset > pages || vma.size() > pages - vma.offset) {
    fail(EINVAL, "{}: does not fit the {}", object.where(), vma.name());
  }
}

void attach_segments(Remote& leader, const std::vector<Vma>& vmas) {
  std::map<std::pair<uint64_t, uint64_t>, Attached> all;  // by segment and address
  for (const Vma& vma : vmas) {
    if (!attaches_segment(vma)) continue;
    const uint64_t base = vma.start - vma.offset;
    Attached& attached = all[{vma.inode, base}];
    attached.base = base;
    attached.parts.push_back(&vma);
  }
  for (const auto& [key, attached] : all) {
    shmid_ds ds = {};
    const auto id = static_cast<int>(key.first);
    if (shmctl(id, IPC_STAT, &ds) != 0) fail_errno("{}: segment {}: shmctl", leader.pid(), id);
    attach(leader, attached, (ds.shm_segsz + kPageSize - 1) / kPageSize * kPageSize);
  }
}

}  // namespace ckpt
