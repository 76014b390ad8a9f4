// What waits in a unix socket to be read: messages, descriptors that are under way (SCM_RIGHTS), credentials. Looked at with
// MSG_PEEK and SO_PEEK_OFF, so that nothing is consumed, and put back by sending it again. unix_record.h has the format.
//
// An empty message behind the first one is seen only by the first who looks (the kernel's MSG_PEEK skips it afterwards).
#pragma once

#include <deque>

#include "engine/kinds/kind.h"
#include "engine/kinds/unix_record.h"

namespace ckpt {

/// A message as it was found; `passes` of the record is filled in by find_queued_descriptors().
struct PeekedMessage {
  UnixMessage record;
  std::vector<UniqueFd> files;   ///< duplicates of what is under way
  std::string data;
};

bool is_unix_socket(const OpenFd& fd);
/// Whether something waits to be read, or to be accepted.
bool has_unread(int fd);

/// The whole queue of a unix socket, of which `fd` is our duplicate. The socket's SO_PEEK_OFF is as before afterwards.
/// Throws Error.
std::vector<PeekedMessage> peek_queue(int fd, int type);

/// Everything that is under way in the sockets of a table, and in the sockets found there in turn.
struct QueuedDescriptors {
  struct Queue {
    std::vector<UnixMessage> messages;
    std::string data;
  };
  std::map<ino_t, Queue> queues;               ///< by the socket's inode
  std::deque<UniqueFd> files;                  ///< our own descriptors of objects/queued-0, queued-1, ...
  std::deque<OpenFd> infos;                    ///< of the same
};

/// Looks through every unix socket of ctx.fds; the process must be stopped. Throws Error(EOPNOTSUPP) for a descriptor under
/// way that cannot be made again.
std::shared_ptr<const QueuedDescriptors> find_queued_descriptors(const CaptureContext& ctx);

/// objects/queued-N, made with the rights of the caller; what is completed_later() is left to complete_queued().
void restore_queued(const RestoreContext& ctx, const std::string& object);
/// The file of "fd-3" or "queued-0". Throws Error(EINVAL) where there is none. Owned by the context.
int complete_queued(const RestoreContext& ctx, const std::string& word, const std::string& where);

/// Sends a message again; `to` is an address for sendto(2), empty for a connected socket. ctx.pid stands in for the pid of
/// a sender that is not there any more. Throws Error: EPERM where a plain caller would send as somebody else: EAGAIN where the receiver's queue is full.
void send_again(const RestoreContext& ctx, int fd, const UnixMessage& message, std::string_view data, const UnixName& to,
                const std::string& where);

}  // namespace ckpt
