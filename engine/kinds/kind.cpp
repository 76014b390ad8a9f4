#include "engine/kinds/kind.h"

#include <fcntl.h>
#include <sys/syscall.h>

#include <algorithm>
#include <set>

#include "engine/base/error.h"
#include "engine/kinds/fd_flags.h"
#include "engine/kinds/locks.h"
#include "engine/kinds/named_file.h"
#include "engine/kinds/owner.h"
#include "engine/kinds/sock_diag.h"
#include "engine/kinds/unix_queue.h"
#include "engine/process/procfs.h"

namespace ckpt {

namespace {

// The kernel's own default ceiling (fs.nr_open); an image that asks for more is not one of ours.
constexpr uint64_t kMaxFd = 1 << 20;
constexpr uint64_t kMaxRecord = 64 << 20;

constexpr const char* kOwnProc = "/proc/self";

std::string fd_name(const CaptureContext& ctx, const OpenFd& fd) {
  return fmt::format("{}: fd {}", ctx.pid, fd.fd);
}

/// Completes the context of `ctx.pid` for its kinds; `own` serves where there is no tree.
void set_table(CaptureContext& ctx, const std::vector<OpenFd>& fds, TreeDescriptors& own) {
  ctx.fds = &fds;
  if (ctx.tree != nullptr) return;
  own.add(ctx.pid, fds);
  ctx.tree = &own;
}

void throw_refusal(const CaptureContext& ctx, const OpenFd& fd) {
  auto why = kind_of(fd).refuse(ctx, fd);
  if (!why) why = refuse_locks(fd);
  if (why) fail(EOPNOTSUPP, "{}: {}", fd_name(ctx, fd), *why);
}

Record capture_one(const CaptureContext& ctx, const OpenFd& fd) {
  const DescriptorKind& kind = kind_of(fd);
  Record out;
  out.add("type", kind.name());
  if (fd.target.starts_with('/') && fd.st.st_nlink > 0) {
    capture_path(ctx, fd.target, out);
  } else {
    out.add("target", fd.target);
  }
  out.add("pos", fd.pos);
  out.add_hex("flags", fd.flags);
  out.comment(flag_names(fd.flags));
  if (fd.shares >= 0 && fd.shares_pid == 0) {
    out.add("shares", fd.shares);
    return out;
  }
  if (fd.shares >= 0) {
    out.add("shares", fmt::format("{}:{}", fd.shares_pid, fd.shares));
    capture_process_locks(ctx, fd, out);
    return out;
  }
  throw_refusal(ctx, fd);
  kind.capture(ctx, fd, out);
  capture_locks(ctx, fd, out);
  if (kind.has_owner() || has_lease(out)) capture_owner(ctx, fd, out);
  return out;
}

/// Files that are only under way in sockets: we are the process that has them open.
void capture_queued(const CaptureContext& outer, std::vector<std::pair<std::string, std::string>>& records) {
  if (outer.queued->files.empty()) return;
  const UniqueFd proc_dir = open_at(AT_FDCWD, kOwnProc, O_RDONLY | O_DIRECTORY);
  const UniqueFd pid_fd(static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0)));
  if (!pid_fd) fail_errno("pidfd_open");
  CaptureContext ctx = outer;
  ctx.proc_dir = proc_dir.get();
  ctx.pid_fd = pid_fd.get();
  for (size_t i = 0; i < ctx.queued->infos.size(); ++i) {
    records.emplace_back(fmt::format("objects/queued-{}", i), capture_one(ctx, ctx.queued->infos[i]).text());
  }
}

struct ParsedFd {
  int fd = -1;
  int shares = -1;
  pid_t shares_pid = 0;
  Record record;
};

/// The number of "fds/17"; only its canonical decimal form is accepted, so that no number comes twice.
int parse_fd_number(std::string_view name, const std::string& where) {
  const auto number = parse_u64(name);
  if (!number || *number > kMaxFd || fmt::to_string(*number) != name) {
    fail(EINVAL, "{}: '{}' is not a descriptor number", where, escape(name));
  }
  return static_cast<int>(*number);
}

/// "17" or "1234:17".
void parse_shares(const std::string& text, ParsedFd& out) {
  const size_t colon = text.find(':');
  const auto fd = parse_u64(std::string_view(text).substr(colon == std::string::npos ? 0 : colon + 1));
  const auto pid = colon == std::string::npos ? std::optional<uint64_t>(0) : parse_u64(text.substr(0, colon));
  if (!fd || *fd > kMaxFd || !pid || *pid > INT32_MAX) {
    fail(EINVAL, "{}: shares '{}', which is no descriptor", out.record.where(), escape(text));
  }
  out.shares = static_cast<int>(*fd);
  out.shares_pid = static_cast<pid_t>(*pid);
}

std::map<int, ParsedFd> parse_fds(const RestoreContext& ctx) {
  std::map<int, ParsedFd> table;
  const std::string dir = ctx.prefix + "fds";
  for (const ImageEntry& entry : ctx.image->below(dir)) {
    const std::string where = ctx.image->describe() + "/" + entry.path;
    const int fd = parse_fd_number(std::string_view(entry.path).substr(dir.size() + 1), where);
    if (entry.type != EntryType::file) fail(EINVAL, "{}: is not a regular file", where);
    ParsedFd parsed{fd, -1, 0, Record::parse(ctx.image->read(entry.path, kMaxRecord), where)};
    if (const auto shares = parsed.record.find("shares")) parse_shares(*shares, parsed);
    table.emplace(fd, std::move(parsed));
  }
  for (const auto& [fd, parsed] : table) {
    if (parsed.shares < 0 || parsed.shares_pid != 0) continue;
    const auto other = table.find(parsed.shares);
    const bool owns = other != table.end() && (other->second.shares < 0 || other->second.shares_pid != 0);
    if (parsed.shares >= fd || !owns) {
      fail(EINVAL, "{}: shares {}, which is not a lower descriptor with a file of its own", parsed.record.where(),
           parsed.shares);
    }
  }
  return table;
}

UniqueFd duplicate(int fd, const std::string& where) {
  UniqueFd copy(fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (!copy) fail_errno("{}: the descriptor {} to take over", where, fd);
  return copy;
}

/// The descriptor of another process of the image that shares its description.
const RestoredFd& owner_of(const RestoreContext& ctx, const ParsedFd& parsed) {
  if (ctx.tables != nullptr) {
    const auto table = ctx.tables->find(parsed.shares_pid);
    const RestoredFd* fd = table == ctx.tables->end() ? nullptr : table->second.find(parsed.shares);
    if (fd != nullptr && !fd->shared) return *fd;
  }
  fail(EINVAL, "{}: shares {}:{}, which is not in the image before it with a file of its own", parsed.record.where(),
       parsed.shares_pid, parsed.shares);
}

}  // namespace

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

void refuse_descriptors(pid_t pid, const std::vector<OpenFd>& fds, Refusals& refusals, bool no_sockets,
                        const TreeDescriptors* tree) {
  const std::string dir = fmt::format("/proc/{}", pid);
  const UniqueFd proc_dir = open_at(AT_FDCWD, dir, O_RDONLY | O_DIRECTORY);
  const UniqueFd pid_fd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (!pid_fd) fail_errno("{}: pidfd_open", pid);
  CaptureContext ctx;
  ctx.pid = pid;
  ctx.proc_dir = proc_dir.get();
  ctx.pid_fd = pid_fd.get();
  ctx.no_sockets = no_sockets;
  ctx.tree = tree;
  TreeDescriptors own;
  set_table(ctx, fds, own);
  for (const OpenFd& fd : fds) {
    if (fd.shares >= 0) continue;
    try {
      refusals.collect([&] { throw_refusal(ctx, fd); });
    } catch (const Error& e) {
      // Closed since the table was read: it refuses nothing any more.
      if (e.err() != EBADF) throw;
    }
  }
}

void capture_descriptors(const CaptureContext& outer, const std::vector<OpenFd>& fds) {
  CaptureContext ctx = outer;
  TreeDescriptors own;
  set_table(ctx, fds, own);
  if (!ctx.queued) ctx.queued = find_queued_descriptors(ctx);
  // Handing records to the image can wait until the process goes on; making them cannot.
  auto records = std::make_shared<std::vector<std::pair<std::string, std::string>>>();
  for (const OpenFd& fd : fds) {
    ctx.step([&] { records->emplace_back(fmt::format("{}fds/{}", ctx.prefix, fd.fd), capture_one(ctx, fd).text()); });
  }
  if (ctx.prefix.empty()) capture_queued(ctx, *records);  // once for the whole image
  auto put = [records, image = ctx.image] {
    for (const auto& [path, text] : *records) image->put(path, text);
  };
  if (ctx.later != nullptr) {
    ctx.later->push_back(put);
  } else {
    put();
  }
}

RestoredFds restore_descriptors(const RestoreContext& ctx, const std::vector<std::pair<int, int>>& inherit) {
  RestoredFds out;
  std::map<int, size_t> index;  // fd -> out.fds
  for (auto& [fd, parsed] : parse_fds(ctx)) {
    RestoredFd restored;
    restored.fd = fd;
    restored.cloexec = (parsed.record.get_u64("flags", UINT32_MAX) & O_CLOEXEC) != 0;
    const auto given = std::find_if(inherit.begin(), inherit.end(), [n = fd](auto& p) { return p.first == n; });
    if (given != inherit.end()) {
      restored.file = static_cast<int>(out.files.size());
      restored.inherited = true;
      out.files.push_back(duplicate(given->second, parsed.record.where()));
    } else if (parsed.shares >= 0 && parsed.shares_pid != 0) {
      const RestoredFd& owner = owner_of(ctx, parsed);
      restored.file = static_cast<int>(out.files.size());
      restored.inherited = owner.inherited;
      restored.shared = true;
      restored.shares = parsed.shares;
      restored.shares_pid = parsed.shares_pid;
      restored.made_in_process = owner.made_in_process;
      out.files.emplace_back();
    } else if (parsed.shares >= 0) {
      const RestoredFd& other = out.fds[index.at(parsed.shares)];
      restored.file = other.file;
      restored.inherited = other.inherited;
      restored.shared = true;
    } else {
      const DescriptorKind& kind = kind_named(parsed.record.get("type"), parsed.record.where());
      UniqueFd file = kind.restore(ctx, parsed.record);
      if (!kind.completed_later()) restore_locks(file.get(), parsed.record);
      restored.file = static_cast<int>(out.files.size());
      out.files.push_back(std::move(file));
      restored.made_in_process = kind.made_in_process();
    }
    restored.record = std::move(parsed.record);
    index.emplace(fd, out.fds.size());
    out.fds.push_back(std::move(restored));
  }
  return out;
}

const RestoredFd* RestoredFds::find(int fd) const {
  const auto it = std::ranges::lower_bound(fds, fd, {}, &RestoredFd::fd);
  return it != fds.end() && it->fd == fd ? &*it : nullptr;
}

void complete_descriptors(const RestoreContext& outer, RestoredFds& fds, Remote& leader) {
  RestoreContext ctx = outer;
  ctx.leader = &leader;
  const auto complete_one = [&ctx](RestoredFds& table, const RestoredFd& fd) {
    if (fd.inherited || fd.shared) return;
    const DescriptorKind& kind = kind_named(fd.record.get("type"), fd.record.where());
    if (!kind.completed_later() || !table.complete.insert(fd.file).second) return;
    UniqueFd file = kind.complete(ctx, fd.record);
    restore_locks(file.get(), fd.record);
    table.files.at(static_cast<size_t>(fd.file)) = std::move(file);
  };
  ctx.file_of = [&](pid_t pid, int number) {
    RestoredFds* table = pid == ctx.pid ? &fds : nullptr;
    if (table == nullptr && ctx.tables != nullptr && ctx.tables->contains(pid)) table = &ctx.tables->at(pid);
    const RestoredFd* fd = table == nullptr ? nullptr : table->find(number);
    if (fd == nullptr || fd->shares_pid != 0) return -1;
    complete_one(*table, *fd);
    return table->files.at(static_cast<size_t>(fd->file)).get();
  };
  for (const RestoredFd& fd : fds.fds) complete_one(fds, fd);
}

void adopt_descriptors(const RestoreContext& ctx, RestoredFds& fds) {
  for (const RestoredFd& fd : fds.fds) {
    if (fd.shares_pid == 0) continue;
    const RestoredFds& owner = ctx.tables->at(fd.shares_pid);
    const UniqueFd& file = owner.files.at(static_cast<size_t>(owner.find(fd.shares)->file));
    fds.files.at(static_cast<size_t>(fd.file)) = duplicate(file.get(), fd.record.where());
  }
}

namespace {

/// Takes the real description from the process that owns it, where it stands by now.
void take_from_owner(const RestoreContext& ctx, const RestoredFd& fd, Remote& leader) {
  const UniqueFd process(static_cast<int>(syscall(SYS_pidfd_open, fd.shares_pid, 0)));
  const UniqueFd local(static_cast<int>(syscall(SYS_pidfd_getfd, process.get(), fd.shares, 0)));
  if (!local) fail_errno("{}: taking {} of process {}", fd.record.where(), fd.shares, fd.shares_pid);
  ctx.place(local.get(), fd.fd, fd.cloexec, leader);
}

}  // namespace

void finish_descriptors(const RestoreContext& ctx, const RestoredFds& fds, Remote& leader) {
  std::map<int, int> replaced;  // file -> the descriptor that finish() has put in place
  // Descriptors that are made in the process first: an epoll instance may watch them.
  for (const RestoredFd& fd : fds.fds) {
    if (fd.inherited) continue;
    if (fd.made_in_process && fd.shares_pid != 0) {
      take_from_owner(ctx, fd, leader);
      replaced.emplace(fd.file, fd.fd);
    } else if (fd.made_in_process) {
      kind_named(fd.record.get("type"), fd.record.where()).finish(ctx, fd.record, fd.fd, leader);
      replaced.emplace(fd.file, fd.fd);
    } else if (const auto first = replaced.find(fd.file); fd.shared && first != replaced.end()) {
      leader.call("dup3", SYS_dup3, static_cast<uint64_t>(first->second), static_cast<uint64_t>(fd.fd),
                  fd.cloexec ? O_CLOEXEC : 0);
    }
  }
  for (const RestoredFd& fd : fds.fds) {
    if (fd.inherited) continue;
    finish_locks(fd.record, fd.fd, leader);
    if (fd.shared) continue;
    const DescriptorKind& kind = kind_named(fd.record.get("type"), fd.record.where());
    if (!fd.made_in_process) kind.finish(ctx, fd.record, fd.fd, leader);
    if (kind.has_owner() || has_lease(fd.record)) finish_owner(ctx, fd.record, fd.fd, leader);
  }
}

}  // namespace ckpt
