#include "engine/kinds/inotify.h"

#include <fcntl.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>

#include <algorithm>

#include "engine/base/error.h"
#include "engine/kinds/fd_flags.h"
#include "engine/kinds/file_handle.h"
#include "engine/kinds/named_file.h"

namespace ckpt {

namespace {

constexpr uint32_t kMask = IN_ALL_EVENTS | IN_EXCL_UNLINK | IN_ONESHOT;
// Numbers are given out one after the other, so the way to a high one is long: two system calls a number.
constexpr uint64_t kMaxWatch = 1 << 20;

struct Watched {
  int wd = 0;
  uint32_t mask = 0;
  dev_t dev = 0;
  ino_t inode = 0;
  std::optional<FileHandle> handle;
};

/// "wd:1 ino:3c51a sdev:fe00000 mask:102 ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:1ac5...", all in
/// hexadecimal: inotify_fdinfo in fs/notify/fdinfo.c. sdev is the kernel's own dev_t: 20 bits of minor number.
std::optional<Watched> parse_fdinfo(const std::string& line) {
  std::map<std::string, std::string> fields;
  for (const std::string& word : split_words(line)) {
    const size_t colon = std::min(word.find(':'), word.size() - 1);
    fields[word.substr(0, colon)] = word.substr(colon + 1);
  }
  const auto wd = parse_u64("0x" + fields["wd"]);
  const auto inode = parse_u64("0x" + fields["ino"]);
  const auto dev = parse_u64("0x" + fields["sdev"]);
  const auto mask = parse_u64("0x" + fields["mask"]);
  if (!wd || *wd > INT32_MAX || !inode || !dev || !mask) return std::nullopt;
  Watched watched{static_cast<int>(*wd), static_cast<uint32_t>(*mask) & kMask,
                  makedev(static_cast<unsigned>(*dev >> 20), static_cast<unsigned>(*dev & 0xfffff)), *inode, {}};
  const auto type = parse_u64("0x" + fields["fhandle-type"]);
  if (type && !fields["f_handle"].empty()) {
    watched.handle = FileHandle::parse(fmt::format("{}:{}", *type, fields["f_handle"]), "fdinfo");
  }
  return watched;
}

bool is_same(const struct stat& st, const Watched& watched) {
  return st.st_dev == watched.dev && st.st_ino == watched.inode && st.st_nlink > 0;
}

/// The path at which the process sees the watched inode.
std::optional<std::string> find_path(const CaptureContext& ctx, const Watched& watched) {
  const auto leads_there = [&](const std::string& path) {
    struct stat st = {};
    return fstatat(ctx.proc_dir, ("root" + path).c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0 && is_same(st, watched);
  };
  const auto check = [&](const std::string& target) -> std::optional<std::string> {
    auto path = path_below_root(ctx, target);
    if (path && leads_there(*path)) return path;
    return std::nullopt;
  };
  if (watched.handle) {
    const UniqueFd file = open_by_handle_of(ctx.proc_dir, *watched.handle, watched.dev);
    struct stat st = {};
    if (file && fstat(file.get(), &st) == 0 && is_same(st, watched)) {
      if (auto path = check(read_link(AT_FDCWD, fmt::format("/proc/self/fd/{}", file.get())))) return path;
    }
  }
  // Without CAP_DAC_READ_SEARCH, or on a filesystem without handles: what the process has at hand.
  for (const OpenFd& fd : *ctx.fds) {
    if (!is_same(fd.st, watched)) continue;
    if (auto path = check(fd.target)) return path;
  }
  for (const char* link : {"cwd", "root", "exe"}) {
    struct stat st = {};
    if (fstatat(ctx.proc_dir, link, &st, 0) != 0 || !is_same(st, watched)) continue;
    if (auto path = check(read_link(ctx.proc_dir, link))) return path;
  }
  return std::nullopt;
}

struct Watch {
  int wd = 0;
  uint32_t mask = 0;
  std::string path;
};

std::vector<Watch> parse_watches(const Record& record) {
  std::vector<Watch> watches;
  for (const std::string& text : record.all("watch")) {
    const size_t first = std::min(text.find(' '), text.size());
    const size_t second = std::min(text.find(' ', first + 1), text.size());
    const auto wd = parse_u64(text.substr(0, first));
    const auto mask = first < second ? parse_u64(text.substr(first + 1, second - first - 1)) : std::nullopt;
    if (!wd || *wd == 0 || *wd > kMaxWatch || !mask || second + 1 >= text.size()) {
      fail(EINVAL, "{}: the watch '{}' is malformed", record.where(), escape(text));
    }
    watches.push_back({static_cast<int>(*wd), static_cast<uint32_t>(*mask) & kMask, text.substr(second + 1)});
  }
  std::sort(watches.begin(), watches.end(), [](const Watch& a, const Watch& b) { return a.wd < b.wd; });
  return watches;
}

int add_watch(int fd, int target, uint32_t mask, const Record& record) {
  const int wd = inotify_add_watch(fd, fmt::format("/proc/self/fd/{}", target).c_str(), mask);
  if (wd < 0) fail_errno("{}: inotify_add_watch", record.where());
  return wd;
}

/// Takes the IN_IGNORED events of removed placeholders out of the queue.
void drain(int fd) {
  alignas(inotify_event) char buffer[8192];
  while (::read(fd, buffer, sizeof buffer) > 0) {
  }
}

/// Uses up the numbers below `wd`: the kernel gives them out in ascending order (idr_alloc_cyclic).
void skip_to(int fd, int& next, int wd, int placeholder, const Record& record) {
  if (next >= wd) return;
  while (next < wd) {
    const int got = add_watch(fd, placeholder, IN_MOVE_SELF, record);
    if (got != next) fail(EIO, "{}: watch {} came where {} was expected", record.where(), got, next);
    inotify_rm_watch(fd, got);
    if (++next % 1024 == 0) drain(fd);
  }
  drain(fd);
}

class InotifyKind : public DescriptorKind {
 public:
  const char* name() const override { return "inotify"; }
  bool matches(const OpenFd& fd) const override {
    return fd.target == "anon_inode:inotify" || fd.target == "anon_inode:[inotify]";
  }

  std::optional<std::string> refuse(const CaptureContext& ctx, const OpenFd& fd) const override {
    int waiting = 0;
    if (ioctl(ctx.take(fd.fd).get(), FIONREAD, &waiting) == 0 && waiting != 0) {
      return "an inotify instance with events that have not been read cannot be checkpointed";
    }
    for (const std::string& line : fd.info_lines("inotify")) {
      const auto watched = parse_fdinfo(line);
      if (!watched) return fmt::format("an inotify watch that is not understood ({}) cannot be checkpointed", line);
      if (static_cast<uint64_t>(watched->wd) > kMaxWatch) {
        return fmt::format("an inotify instance with the watch number {} cannot be checkpointed", watched->wd);
      }
      if (!find_path(ctx, *watched)) {
        return fmt::format("an inotify watch on inode {} of device {}:{}, whose path cannot be found, cannot be "
                           "checkpointed", watched->inode, major(watched->dev), minor(watched->dev));
      }
    }
    return std::nullopt;
  }

  void capture(const CaptureContext& ctx, const OpenFd& fd, Record& out) const override {
    std::map<int, std::string> lines;
    for (const std::string& line : fd.info_lines("inotify")) {
      const auto watched = parse_fdinfo(line);
      const auto path = watched ? find_path(ctx, *watched) : std::nullopt;
      if (!path) fail(EOPNOTSUPP, "{}: fd {}: the inotify watch '{}' has no path", ctx.pid, fd.fd, line);
      lines[watched->wd] = fmt::format("{} {:#x} {}", watched->wd, watched->mask, *path);
    }
    for (const auto& [wd, line] : lines) out.add("watch", line);
  }

  UniqueFd restore(const RestoreContext& ctx, const Record& record) const override {
    UniqueFd fd(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
    if (!fd) fail_errno("{}: inotify_init1", record.where());
    const UniqueFd placeholder(memfd_create("placeholder", MFD_CLOEXEC));
    if (!placeholder) fail_errno("{}: memfd_create", record.where());
    int next = 1;
    for (const Watch& watch : parse_watches(record)) {
      const UniqueFd target = open_in_root(ctx, record, watch.path, O_PATH | O_NOFOLLOW);
      skip_to(fd.get(), next, watch.wd, placeholder.get(), record);
      if (add_watch(fd.get(), target.get(), watch.mask, record) != watch.wd) {
        fail(EINVAL, "{}: '{}' cannot be watch {}: it is watched already", record.where(), watch.path, watch.wd);
      }
      next = watch.wd + 1;
    }
    set_status_flags(fd.get(), record);
    return fd;
  }

  bool has_owner() const override { return true; }
  bool may_be_queued() const override { return false; }
};

}  // namespace

const DescriptorKind& inotify_kind() {
  static const InotifyKind kind;
  return kind;
}

}  // namespace ckpt
