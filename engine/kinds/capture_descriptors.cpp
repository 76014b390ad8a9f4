// All of fds/: what is refused before the stop, and what is written in it.
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/base/error.h"
#include "engine/kinds/fd_flags.h"
#include "engine/kinds/kind.h"
#include "engine/kinds/locks.h"
#include "engine/kinds/named_file.h"
#include "engine/kinds/owner.h"
#include "engine/kinds/unix_queue.h"

namespace ckpt {

namespace {

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

}  // namespace

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

}  // namespace ckpt
