// objects/unix-INODE: one unix socket, below objects/ once for the whole image.
//
//   socket stream|seqpacket|dgram
//   state unconnected|listening|connected|pending|hung_up
//   peer unix-4712                 connected: the other end (of a datagram socket: where it sends to); pending: the
//                                  listening socket that has not accepted it yet
//   path /run/x, or abstract x     its name, as bind(2) took it
//   accepted 1                     the name is that of the listening socket which it was accepted from
//   file 0140755 0 0               mode, owner and group of the file at `path`; absent where that has gone
//   peer_path, peer_abstract       hung_up: the name of the end that has gone
//   backlog 128                    listening
//   pending unix-4713              listening: one line a connection that waits to be accepted, the oldest first
//   peercred PID UID GID [GROUP]*  of SO_PEERCRED and SO_PEERGROUPS
//   shutdown read|write|both       its own halves that are shut
//   reset 1                        hung_up: the next call fails with ECONNRESET
//   peek_off 0                     SO_PEEK_OFF
//   user 1000 1000                 owner and group of the socket itself, as fstat(2) tells
//   option, sndbuf, ...            socket_options.h
//
// What is queued to be read, in order; the bytes of all messages stand one after the other in objects/unix-INODE.data:
//
//   message 5                      its size in bytes; of a stream a run of bytes that descriptors or credentials end
//   cred PID UID GID               of the message above: SCM_CREDENTIALS
//   from_path, from_abstract       of the message above: the name of its sender
//   passes fd-3 queued-0           of the message above, SCM_RIGHTS: the file of fds/3 (fd-1234:3: of process 1234), of
//                                  objects/queued-0
//
// objects/queued-N is a record as fds/N, of a file that is only in such a queue.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "engine/base/record.h"

namespace ckpt {

/// A name of a unix socket: a path as it was given, or NUL and an abstract name; empty for none.
struct UnixName {
  std::string bytes;
  bool empty() const { return bytes.empty(); }
  bool is_path() const { return !bytes.empty() && bytes[0] != '\0'; }
  /// For messages: the path, or "@name".
  std::string shown() const;
  auto operator<=>(const UnixName&) const = default;
};

struct UnixCred {
  pid_t pid = 0;
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups;     ///< of a peer only
};

struct UnixMessage {
  size_t size = 0;
  std::optional<UnixCred> cred;
  UnixName from;
  std::vector<std::string> passes;
};

enum class UnixState { unconnected, listening, connected, pending, hung_up };

struct SocketFile {
  mode_t mode = 0;
  uid_t uid = 0;
  gid_t gid = 0;
};

struct UnixSocket {
  int type = 0;                  ///< SOCK_STREAM, SOCK_SEQPACKET, SOCK_DGRAM
  UnixState state = UnixState::unconnected;
  std::string peer;              ///< an object
  UnixName name, peer_name;
  bool accepted = false;
  std::optional<SocketFile> file;
  unsigned backlog = 0;
  std::vector<std::string> pending;
  std::optional<UnixCred> peercred;
  bool shut_read = false, shut_write = false;
  bool reset = false;
  int peek_off = -1;
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<UnixMessage> messages;

  bool is_stream() const;        ///< with connections: stream or seqpacket

  /// Adds all fields.
  void write(Record& out) const;
  /// Throws Error(EINVAL) for what is malformed or contradicts itself. Whether the objects that it names exist is not
  /// looked at. Hostile input is expected.
  static UnixSocket parse(const Record& record);
};

}  // namespace ckpt
