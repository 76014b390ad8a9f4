// All of fds/ on its way back: parsed and made, completed, put at their numbers, finished.
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "engine/base/error.h"
#include "engine/kinds/kind.h"
#include "engine/kinds/locks.h"
#include "engine/kinds/owner.h"

namespace ckpt {

namespace {

// The kernel's own default ceiling (fs.nr_open); an image that asks for more is not one of ours.
constexpr uint64_t kMaxFd = 1 << 20;
constexpr uint64_t kMaxRecord = 64 << 20;

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
