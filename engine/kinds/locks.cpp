#include "engine/kinds/locks.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "engine/base/error.h"

namespace ckpt {

namespace {

struct Lock {
  std::string kind;   // flock, ofd, posix, lease
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
  const bool whole_file = lock.kind == "flock" || lock.kind == "lease";
  if (!whole_file && lock.kind != "ofd" && lock.kind != "posix") malformed();
  if (whole_file != (words.size() == 2)) malformed();
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
  if (err == EWOULDBLOCK && text.starts_with("lease")) {
    fail(EAGAIN, "{}: '{}': another process has the file open", record.where(), text);
  }
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

std::optional<std::string> refuse_locks(const OpenFd& fd) {
  constexpr std::string_view kTypes[] = {"FLOCK", "OFDLCK", "POSIX", "LEASE"};
  for (const std::string& line : fd.info_lines("lock")) {
    const auto words = split_words(line);
    if (words.size() < 8) return fmt::format("the lock '{}' is not understood", line);
    if (std::ranges::find(kTypes, words[1]) == std::end(kTypes)) {
      return fmt::format("a lock of the type {} ({}) cannot be checkpointed", words[1], fd.target);
    }
    const bool lease = words[1] == "LEASE";
    if (lease && words[2] != "ACTIVE") {
      return fmt::format("a lease that is being broken ({}) cannot be checkpointed", fd.target);
    }
    // Its content is read through another descriptor, which would break it.
    if (lease && fd.st.st_nlink == 0) {
      return fmt::format("a lease of a deleted file ({}) cannot be checkpointed", fd.target);
    }
    if ((!lease && words[2] != "ADVISORY") || (words[3] != "WRITE" && words[3] != "READ")) {
      return fmt::format("a lock of the type {} {} {} ({}) cannot be checkpointed", words[1], words[2], words[3],
                         fd.target);
    }
  }
  return std::nullopt;
}

void capture_locks(const CaptureContext& ctx, const OpenFd& fd, Record& out) {
  if (const auto why = refuse_locks(fd)) fail(EOPNOTSUPP, "{}: fd {}: {}", ctx.pid, fd.fd, *why);
  // "lock:\t1: POSIX  ADVISORY  WRITE 7868 fe:00:10952965 5 14"
  for (const std::string& line : fd.info_lines("lock")) {
    const auto words = split_words(line);
    const char* mode = words[3] == "WRITE" ? "write" : "read";
    if (words[1] == "FLOCK" || words[1] == "LEASE") {
      out.add("lock", fmt::format("{} {}", words[1] == "FLOCK" ? "flock" : "lease", mode));
    } else {
      out.add("lock", fmt::format("{} {} {} {}", words[1] == "POSIX" ? "posix" : "ofd", mode, words[6],
                                  words[7] == "EOF" ? "eof" : words[7]));
    }
  }
}

bool has_lease(const Record& record) {
  const auto locks = record.all("lock");
  return std::ranges::any_of(locks, [](const std::string& lock) { return lock.starts_with("lease "); });
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

namespace {

/// EAGAIN is for a file that another has open, and for one that somebody just looks at, by /proc/PID/fd for instance: that
/// lasts a moment (check_conflicting_open() in fs/locks.c counts references).
long set_lease(int fd, int lease, Remote& leader) {
  constexpr int kTries = 100;
  for (int tries = 1;; ++tries) {
    const long result =
        leader.syscall(SYS_fcntl, static_cast<uint64_t>(fd), F_SETLEASE, static_cast<uint64_t>(lease));
    if (result != -EAGAIN || tries == kTries) return result;
    ::usleep(1000);
  }
}

}  // namespace

void finish_locks(const Record& record, int fd, Remote& leader) {
  for (const std::string& text : record.all("lock")) {
    const Lock lock = parse_lock(text, record.where());
    long result = 0;
    if (lock.kind == "posix") {
      const RemotePtr at = leader.put(to_flock(lock));
      result = leader.syscall(SYS_fcntl, static_cast<uint64_t>(fd), F_SETLK, at.addr);
    } else if (lock.kind == "lease") {
      result = set_lease(fd, lock.write ? F_WRLCK : F_RDLCK, leader);
    }
    if (result < 0) fail_lock(static_cast<int>(-result), record, text);
  }
}

}  // namespace ckpt
