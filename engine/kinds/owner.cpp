#include "engine/kinds/owner.h"

#include <fcntl.h>
#include <sys/syscall.h>

#include "engine/base/error.h"
#include "engine/kinds/fd_flags.h"

namespace ckpt {

namespace {

pid_t group_of(const CaptureContext& ctx) { return getpgid(ctx.pid); }

bool is_inside(const CaptureContext& ctx, const f_owner_ex& owner) {
  switch (owner.type) {
    case F_OWNER_PID: return owner.pid == ctx.pid;
    case F_OWNER_TID:
      return faccessat(ctx.proc_dir, fmt::format("task/{}", owner.pid).c_str(), F_OK, 0) == 0;
    case F_OWNER_PGRP: return owner.pid == group_of(ctx);
    default: return false;
  }
}

const char* type_name(int type) {
  return type == F_OWNER_PID ? "pid" : type == F_OWNER_TID ? "tid" : "pgrp";
}

f_owner_ex parse_owner(const RestoreContext& ctx, const Record& record, Remote& leader) {
  const auto words = split_words(record.get("owner"));
  const auto number = words.size() == 2 ? parse_u64(words[1]) : std::nullopt;
  if (!number || *number > INT32_MAX) fail(EINVAL, "{}: the owner is malformed", record.where());
  f_owner_ex owner{F_OWNER_PID, static_cast<pid_t>(*number)};
  bool inside = false;
  if (words[0] == "pid") {
    inside = owner.pid == ctx.pid;
  } else if (words[0] == "tid") {
    owner.type = F_OWNER_TID;
    inside = owner.pid == ctx.pid || ctx.image->has(fmt::format("{}threads/{}", ctx.prefix, owner.pid));
  } else if (words[0] == "pgrp") {
    owner.type = F_OWNER_PGRP;
    inside = owner.pid == leader.call("getpgid", SYS_getpgid, 0);
  } else {
    fail(EINVAL, "{}: the owner is malformed", record.where());
  }
  if (!inside) fail(EPERM, "{}: the owner {} {} is outside the process", record.where(), words[0], owner.pid);
  return owner;
}

}  // namespace

void capture_owner(const CaptureContext& ctx, const OpenFd& fd, Record& out) {
  const UniqueFd mine = ctx.take(fd.fd);
  f_owner_ex owner = {};
  if (fcntl(mine.get(), F_GETOWN_EX, &owner) != 0) fail_errno("{}: fd {}: F_GETOWN_EX", ctx.pid, fd.fd);
  if (owner.pid != 0) {
    if (!is_inside(ctx, owner)) {
      fail(EOPNOTSUPP, "{}: fd {} ({}): a descriptor whose signal owner ({} {}) is outside the process cannot be "
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
