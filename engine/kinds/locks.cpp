#include "engine/kinds/locks.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/syscall.h>

#include "engine/base/error.h"

namespace ckpt {

namespace {

struct Lock {
  std::string kind;   // flock, ofd, posix
  bool write = false;
  uint64_t start = 0, last = UINT64_MAX;  // UINT64_MAX: to the end of the file
};

Lock parse_lock(const std::string& text, const std::string& where) {
  const auto words = split_words(text);
  const auto malformed = [&] { fail(EINVAL, "{}: the lock '{}' is malformed", where, escape(text)); };
  Lock lock;
  if (words.size() != 2 && words.size() != 4) malformed();
  lock.kind = words[0];
  lock.write = words[1] == "write";
  if (!lock.write && words[1] != "read") malformed();
  if (lock.kind != "flock" && lock.kind != "ofd" && lock.kind != "posix") malformed();
  if ((lock.kind == "flock") != (words.size() == 2)) malformed();
  if (words.size() == 2) return lock;
  const auto start = parse_u64(words[2]);
  const auto last = words[3] == "eof" ? std::optional<uint64_t>(UINT64_MAX) : parse_u64(words[3]);
  if (!start || !last || *start > INT64_MAX || *last < *start) malformed();
  if (*last != UINT64_MAX && *last >= INT64_MAX) malformed();
  lock.start = *start;
  lock.last = *last;
  return lock;
}

struct flock to_flock(const Lock& lock) {
  struct flock fl = {};
  fl.l_type = lock.write ? F_WRLCK : F_RDLCK;
  fl.l_whence = SEEK_SET;
  fl.l_start = static_cast<off_t>(lock.start);
  fl.l_len = lock.last == UINT64_MAX ? 0 : static_cast<off_t>(lock.last - lock.start + 1);
  return fl;
}

[[noreturn]] void fail_lock(int err, const Record& record, const std::string& text) {
  if (err == EACCES || err == EWOULDBLOCK) {
    fail(EAGAIN, "{}: the lock '{}' is held by another process", record.where(), text);
  }
  fail(err, "{}: taking the lock '{}': {}", record.where(), text, errno_text(err));
}

}  // namespace

void capture_process_locks(const CaptureContext& ctx, const OpenFd& fd, Record& out) {
  Record all;
  capture_locks(ctx, fd, all);
  for (const std::string& lock : Record::parse(all.text(), "locks").all("lock")) {
    if (lock.starts_with("posix ")) out.add("lock", lock);
  }
}

void capture_locks(const CaptureContext& ctx, const OpenFd& fd, Record& out) {
  // "lock:\t1: POSIX  ADVISORY  WRITE 7868 fe:00:10952965 5 14"
  for (const std::string& line : fd.info_lines("lock")) {
    const auto words = split_words(line);
    if (words.size() < 8) fail(EIO, "{}: fd {}: the lock '{}' is not understood", ctx.pid, fd.fd, line);
    const bool write = words[3] == "WRITE";
    if (words[2] != "ADVISORY" || (!write && words[3] != "READ")) {
      fail(EOPNOTSUPP, "{}: fd {} ({}): a {} cannot be checkpointed", ctx.pid, fd.fd, fd.target,
           words[1] == "LEASE" ? "file lease" : "lock of the type " + words[1] + " " + words[2]);
    }
    const char* mode = write ? "write" : "read";
    if (words[1] == "FLOCK") {
      out.add("lock", fmt::format("flock {}", mode));
    } else if (words[1] == "OFDLCK" || words[1] == "POSIX") {
      out.add("lock", fmt::format("{} {} {} {}", words[1] == "POSIX" ? "posix" : "ofd", mode, words[6],
                                  words[7] == "EOF" ? "eof" : words[7]));
    } else {
      fail(EOPNOTSUPP, "{}: fd {} ({}): a lock of the type {} cannot be checkpointed", ctx.pid, fd.fd, fd.target,
           words[1]);
    }
  }
}

void restore_locks(int fd, const Record& record) {
  for (const std::string& text : record.all("lock")) {
    const Lock lock = parse_lock(text, record.where());
    if (lock.kind == "flock") {
      if (flock(fd, (lock.write ? LOCK_EX : LOCK_SH) | LOCK_NB) != 0) fail_lock(errno, record, text);
    } else if (lock.kind == "ofd") {
      const struct flock fl = to_flock(lock);
      if (fcntl(fd, F_OFD_SETLK, &fl) != 0) fail_lock(errno, record, text);
    }
  }
}

void finish_locks(const Record& record, int fd, Remote& leader) {
  for (const std::string& text : record.all("lock")) {
    const Lock lock = parse_lock(text, record.where());
    if (lock.kind != "posix") continue;
    const RemotePtr at = leader.put(to_flock(lock));
    const long result = leader.syscall(SYS_fcntl, static_cast<uint64_t>(fd), F_SETLK, at.addr);
    if (result < 0) fail_lock(static_cast<int>(-result), record, text);
  }
}

}  // namespace ckpt
