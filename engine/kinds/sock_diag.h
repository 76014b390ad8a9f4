// What only the kernel's socket monitor tells of sockets, sock_diag(7): the peer of a unix socket, its pending connections,
// its halves that are shut, its backlog. Source: net/unix/diag.c.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace ckpt {

/// A unix socket of this network namespace.
struct UnixDiag {
  ino_t inode = 0;
  int type = 0;                        ///< SOCK_STREAM, ...
  int state = 0;                       ///< TCP_LISTEN, TCP_ESTABLISHED (it has a peer), TCP_CLOSE
  unsigned shutdown = 0;               ///< 1: receiving is shut, 2: sending is shut
  std::optional<ino_t> peer;           ///< 0: the peer is nobody's descriptor: closed, or not accepted yet
  std::vector<ino_t> pending;          ///< of a listening one: clients that are not accepted yet, oldest first; 0: closed
  uint32_t backlog = 0;                ///< of a listening one, or of a datagram one: how many may wait
  std::string name;                    ///< as bind(2) took it: a path, or NUL and an abstract name
  std::optional<std::pair<dev_t, uint32_t>> file;  ///< device and low half of the inode of the file it is bound to
};

/// All unix sockets of the calling thread's network namespace, by inode. Throws Error; EOPNOTSUPP where the kernel has no
/// monitor for them.
std::map<ino_t, UnixDiag> list_unix_sockets();

}  // namespace ckpt
