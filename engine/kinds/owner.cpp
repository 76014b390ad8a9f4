#include "engine/kinds/owner.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "engine/base/error.h"
#include "engine/kinds/fd_flags.h"

namespace ckpt {

namespace {

/// A group with any process of the checkpoint in it: it is made again with them.
bool is_group_inside(const CaptureContext& ctx, pid_t group) {
  if (getpgid(ctx.pid) == group) return true;
  return ctx.tree != nullptr && std::ranges::any_of(ctx.tree->pids, [&](pid_t pid) { return getpgid(pid) == group; });
}

bool is_inside(const CaptureContext& ctx, const f_owner_ex& owner) {
  switch (owner.type) {
    case F_OWNER_PID: return ctx.has_process(owner.pid);
    case F_OWNER_TID: return ctx.has_thread(owner.pid);
    case F_OWNER_PGRP: return is_group_inside(ctx, owner.pid);
    default: return false;
  }
}

const char* type_name(int type) {
  return type == F_OWNER_PID ? "pid" : type == F_OWNER_TID ? "tid" : "pgrp";
}

bool is_group_made(const RestoreContext& ctx, pid_t group) {
  return ctx.pids != nullptr && std::ranges::any_of(*ctx.pids, [&](pid_t pid) { return getpgid(pid) == group; });
}

f_owner_ex parse_owner(const RestoreContext& ctx, const Record& record, Remote& leader) {
  const auto words = split_words(record.get("owner"));
  const auto number = words.size() == 2 ? parse_u64(words[1]) : std::nullopt;
  if (!number || *number > INT32_MAX) fail(EINVAL, "{}: the owner is malformed", record.where());
  f_owner_ex owner{F_OWNER_PID, static_cast<pid_t>(*number)};
  bool inside = false;
  if (words[0] == "pid") {
    inside = ctx.has_process(owner.pid);
  } else if (words[0] == "tid") {
    owner.type = F_OWNER_TID;
    inside = ctx.has_thread(owner.pid);
  } else if (words[0] == "pgrp") {
    owner.type = F_OWNER_PGRP;
    inside = owner.pid == leader.call("getpgid", SYS_getpgid, 0) || is_group_made(ctx, owner.pid);
  } else {
    fail(EINVAL, "{}: the owner is malformed", record.where());
  }
  if (!inside) fail(EPERM, "{}: the owner {} {} is outside the process tree", record.where(), words[0], owner.pid);
  return owner;
}

}  // namespace

void capture_owner(const CaptureContext& ctx, const OpenFd& fd, Record& out) {
  const UniqueFd mine = ctx.take(fd.fd);
  f_owner_ex owner = {};
  if (fcntl(mine.get(), F_GETOWN_EX, &owner) != 0) fail_errno("{}: fd {}: F_GETOWN_EX", ctx.pid, fd.fd);
  if (owner.pid != 0) {
    if (!is_inside(ctx, owner)) {
      fail(EOPNOTSUPP, "{}: fd {} ({}): a descriptor whose signal owner ({} {}) is outside the process tree cannot be "
           "checkpointed", ctx.pid, fd.fd, fd.target, type_name(owner.type), owner.pid);
    }
    out.add("owner", fmt::format("{} {}", type_name(owner.type), owner.pid));
  }
  const int sig = fcntl(mine.get(), F_GETSIG);
  if (sig > 0) out.add("sigio", sig);
}

void finish_owner(const RestoreContext& ctx, const Record& record, int fd, Remote& leader) {
  const auto number = static_cast<uint64_t>(fd);
  if (record.has("owner")) {
    const RemotePtr at = leader.put(parse_owner(ctx, record, leader));
    leader.call("fcntl(F_SETOWN_EX)", SYS_fcntl, number, F_SETOWN_EX, at.addr);
  }
  if (record.has("sigio")) {
    leader.call("fcntl(F_SETSIG)", SYS_fcntl, number, F_SETSIG, record.get_u64("sigio", 64));
  }
  if ((record.get_u64("flags", UINT32_MAX) & O_ASYNC) != 0) {
    const long now = leader.call("fcntl(F_GETFL)", SYS_fcntl, number, F_GETFL);
    leader.call("fcntl(F_SETFL)", SYS_fcntl, number, F_SETFL, static_cast<uint64_t>(now) | O_ASYNC);
  }
}

}  // namespace ckpt
