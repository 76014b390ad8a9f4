#include "engine/kinds/unix_connect.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>

#include "engine/base/error.h"
#include "engine/kinds/unix_name.h"

namespace ckpt {

namespace {

constexpr uint64_t kKeep = ~0ull;                // setresuid(2): this one stays

void check_may_appear(const Caller& caller, const UnixCred& cred, const std::string& where) {
  const bool own = cred.uid == caller.uid && caller.in_group(cred.gid) &&
                   std::ranges::all_of(cred.groups, [&](gid_t group) { return caller.in_group(group); });
  if (!caller.privileged() && !own) {
    fail(EPERM, "{}: only root may make the other end of a socket appear as uid {} and gid {}", where, cred.uid, cred.gid);
  }
}

std::vector<gid_t> own_groups() {
  const long n = ::syscall(SYS_getgroups, 0, nullptr);
  std::vector<gid_t> groups(n > 0 ? static_cast<size_t>(n) : 0);
  if (n > 0 && ::syscall(SYS_getgroups, groups.size(), groups.data()) != n) fail_errno("getgroups");
  return groups;
}

void set_groups(Remote& leader, const std::vector<gid_t>& groups) {
  if (groups.size() * sizeof(gid_t) > leader.scratch_size()) fail(EINVAL, "{} groups are too many", groups.size());
  leader.write(leader.scratch(), std::as_bytes(std::span(groups)));
  leader.call("setgroups", SYS_setgroups, groups.size(), leader.scratch().addr);
}

void close_there(Remote& leader, int fd) { leader.call("close", SYS_close, static_cast<uint64_t>(fd)); }

}  // namespace

UnixMaker::UnixMaker(const RestoreContext& ctx)
    : ctx_(ctx), pid_fd_(static_cast<int>(::syscall(SYS_pidfd_open, ctx.leader->pid(), 0))) {
  if (!pid_fd_) fail_errno("{}: pidfd_open", ctx.leader->pid());
}

// The process is still as we are. A failure on the way ends it, so that nothing needs to be set back then.
template <typename Work>
void UnixMaker::as(const std::optional<UnixCred>& cred, const std::string& where, Work&& work) const {
  const std::vector<gid_t> groups = own_groups();
  const uid_t uid = ::geteuid();
  const gid_t gid = ::getegid();
  if (!cred || (cred->uid == uid && cred->gid == gid && cred->groups == groups)) return work();
  check_may_appear(ctx_.caller, *cred, where);
  Remote& leader = *ctx_.leader;
  set_groups(leader, cred->groups);
  leader.call("setresgid", SYS_setresgid, kKeep, cred->gid, kKeep);
  leader.call("setresuid", SYS_setresuid, kKeep, cred->uid, kKeep);
  work();
  leader.call("setresuid", SYS_setresuid, kKeep, uid, kKeep);
  leader.call("setresgid", SYS_setresgid, kKeep, gid, kKeep);
  set_groups(leader, groups);
}

UniqueFd UnixMaker::socket(int type) const {
  UniqueFd fd(::socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) fail_errno("making a unix socket");
  return fd;
}

std::pair<UniqueFd, UniqueFd> UnixMaker::pair(int type, const std::optional<UnixCred>& cred, const std::string& where) const {
  Remote& leader = *ctx_.leader;
  std::array<int, 2> ends = {-1, -1};
  as(cred, where, [&] {
    const RemotePtr at = leader.put(ends);
    leader.call("socketpair", SYS_socketpair, AF_UNIX, static_cast<uint64_t>(type | SOCK_CLOEXEC | SOCK_NONBLOCK), 0, at.addr);
    ends = leader.get<std::array<int, 2>>(at);
  });
  std::array<UniqueFd, 2> mine;
  for (size_t i = 0; i < 2; ++i) {
    mine[i].reset(static_cast<int>(::syscall(SYS_pidfd_getfd, pid_fd_.get(), ends[i], 0)));
    if (!mine[i]) fail_errno("{}: taking a new socket", where);
    close_there(leader, ends[i]);
  }
  return {std::move(mine[0]), std::move(mine[1])};
}

void UnixMaker::listen(int fd, unsigned backlog, const std::optional<UnixCred>& cred, const std::string& where) const {
  const int there = ctx_.give(fd);
  as(cred, where, [&] { ctx_.leader->call("listen", SYS_listen, static_cast<uint64_t>(there), backlog); });
  close_there(*ctx_.leader, there);
}

void UnixMaker::connect_to(int client, const UnixName& name, int file, const std::optional<UnixCred>& cred,
                           const std::string& where) const {
  Remote& leader = *ctx_.leader;
  const int there = ctx_.give(client);
  const int file_there = file >= 0 ? ctx_.give(file) : -1;
  sockaddr_un address = {};
  const socklen_t size = address_of(file >= 0 ? own_path(file_there) : name, address);
  as(cred, where, [&] {
    const RemotePtr at = leader.put(address);
    leader.call("connect", SYS_connect, static_cast<uint64_t>(there), at.addr, size);
  });
  close_there(leader, there);
  if (file >= 0) close_there(leader, file_there);
}

UniqueFd UnixMaker::connect(int client, int type, const UnixName& name, const Creds& creds, const std::string& where) const {
  const UniqueFd listener = socket(type);
  const UniqueFd file = bind_again(ctx_, listener.get(), name, std::nullopt, where);
  listen(listener.get(), 1, creds.server, where);
  connect_to(client, name, file.get(), creds.client, where);
  for (;;) {
    UniqueFd end(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!end) fail_errno("{}: connecting to {}", where, name.shown());
    // Under an abstract name a stranger may have come in between.
    ucred peer = {};
    socklen_t size = sizeof peer;
    if (getsockopt(end.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.pid == ctx_.leader->pid()) return end;
  }
}

void connect_here(int fd, const UnixName& name, const std::string& where) {
  sockaddr_un address = {};
  const socklen_t size = address_of(name, address);
  if (::connect(fd, reinterpret_cast<sockaddr*>(&address), size) != 0) fail_errno("{}: connecting to {}", where, name.shown());
}

void disconnect(int fd, const std::string& where) {
  sockaddr nobody = {};
  nobody.sa_family = AF_UNSPEC;
  if (::connect(fd, &nobody, sizeof nobody) != 0) fail_errno("{}: ending a connection", where);
}

UnixName own_path(int fd) { return {fmt::format("/proc/self/fd/{}", fd)}; }

}  // namespace ckpt
