#include "engine/kinds/quiet_end.h"

#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <set>

#include "engine/base/error.h"
#include "engine/kinds/open_links.h"

namespace ckpt {

namespace {

/// A process outside the checkpoint that has one of the sockets too, and which one; 0 for none.
std::pair<pid_t, ino_t> find_outsider(const CaptureContext& ctx, const std::set<ino_t>& sockets) {
  std::map<std::string, ino_t, std::less<>> names;
  for (const ino_t inode : sockets) names.emplace(fmt::format("socket:[{}]", inode), inode);
  std::pair<pid_t, ino_t> outsider = {0, 0};
  for_each_open_link([&](pid_t pid) { return ctx.has_process(pid); },
                     [&](pid_t pid, const char*, std::string_view target) {
                       const auto found = names.find(target);
                       if (found != names.end()) outsider = {pid, found->second};
                     });
  return outsider;
}

}  // namespace

QuietEnd::QuietEnd(const CaptureContext& ctx) : sockets_(tcp_sockets_of(ctx)) {
  if (sockets_.empty()) return;
  std::set<ino_t> inodes;
  std::set<std::pair<std::string, std::string>> inside;
  std::vector<PeerPath> paths;
  for (const TcpSocket& socket : sockets_) {
    inodes.insert(socket.inode);
    const auto local = address_of(socket.fd.get(), getsockname), peer = address_of(socket.fd.get(), getpeername);
    if (!local || !peer) continue;  // it ends just now
    paths.emplace_back(peer->unmapped(), local->unmapped());
    inside.emplace(paths.back().second.text(), paths.back().first.text());
  }
  if (const auto [pid, inode] = find_outsider(ctx, inodes); pid != 0) {
    fail(EOPNOTSUPP, "{}: a TCP connection (socket:[{}]) that process {} has too cannot be ended with its processes", ctx.pid,
         inode, pid);
  }
  std::erase_if(paths, [&](const PeerPath& path) { return inside.contains({path.first.text(), path.second.text()}); });
  if (paths.empty()) return;
  // Who can read the image alone can name the rule in another one, and end it.
  uint64_t secret = 0;
  if (::getrandom(&secret, sizeof secret, 0) != sizeof secret) fail_errno("{}: getrandom", ctx.pid);
  hold_ = std::make_unique<PeerHold>(fmt::format("ckptfs-{}-{:x}", ctx.pid, secret), std::move(paths));
}

void QuietEnd::begin() {
  if (hold_) hold_->keep();
  const int on = TCP_REPAIR_ON;
  for (const TcpSocket& socket : sockets_) setsockopt(socket.fd.get(), IPPROTO_TCP, TCP_REPAIR, &on, sizeof on);
}

}  // namespace ckpt
