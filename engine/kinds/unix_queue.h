// What waits in a unix socket to be read: messages, credentials, descriptors that are under way (SCM_RIGHTS), which are part
// of the image. Put back by sending it again. unix_record.h has the format.
#pragma once

#include <deque>

#include "engine/kinds/kind.h"
#include "engine/kinds/unix_record.h"

namespace ckpt {

bool is_unix_socket(const OpenFd& fd);
/// Whether something waits to be read, or to be accepted.
bool has_unread(int fd);

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
