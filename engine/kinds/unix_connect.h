// Unix sockets made and tied together by the process that is being resumed, because the kernel notes who made a pair, who
// listens and who connects: that is what SO_PEERCRED tells the other end.
#pragma once

#include "engine/kinds/kind.h"
#include "engine/kinds/unix_record.h"

namespace ckpt {

class UnixMaker {
 public:
  /// What the two ends of a connection are to see of each other: `server` is seen by the client.
  struct Creds {
    std::optional<UnixCred> server, client;
  };

  explicit UnixMaker(const RestoreContext& ctx);

  // All sockets are ours and non-blocking. Every call throws Error; EPERM where a plain caller would appear as somebody
  // else. Credentials: user, group and supplementary groups; the pid is that of the process that is being resumed.

  UniqueFd socket(int type) const;
  std::pair<UniqueFd, UniqueFd> pair(int type, const std::optional<UnixCred>& cred, const std::string& where) const;
  void listen(int fd, unsigned backlog, const std::optional<UnixCred>& cred, const std::string& where) const;
  /// Connects to a socket bound to `name`; `file` is an O_PATH descriptor of its file, -1 for an abstract name.
  void connect_to(int client, const UnixName& name, int file, const std::optional<UnixCred>& cred,
                  const std::string& where) const;
  /// Connects a client and returns the other end, which has `name` as if accepted by a socket of that name, though none
  /// is left: where it is a path, nobody else can reach it; where it is abstract, it must be free at the moment.
  UniqueFd connect(int client, int type, const UnixName& name, const Creds& creds, const std::string& where) const;

 private:
  template <typename Work>
  void as(const std::optional<UnixCred>& cred, const std::string& where, Work&& work) const;

  const RestoreContext& ctx_;
  UniqueFd pid_fd_;
};

/// With our own calls, for datagram sockets: where `fd` sends to, and nowhere any more.
void connect_here(int fd, const UnixName& name, const std::string& where);
void disconnect(int fd, const std::string& where);
/// The name under which we reach a file by a descriptor of it.
UnixName own_path(int fd);

}  // namespace ckpt
