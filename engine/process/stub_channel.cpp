// Descriptors from here to the stub: over a socket pair of which we take one end (pidfd_getfd), so that nothing need
// be inherited through the execution of the stub.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "engine/base/error.h"
#include "engine/process/stub.h"

namespace ckpt {

namespace {

constexpr size_t kBatch = 250;   // SCM_MAX_FD is 253

// The message as the stub receives it, laid out in its scratch memory.
struct Inbox {
  msghdr header;
  iovec piece;
  char byte;
  alignas(cmsghdr) char control[CMSG_SPACE(kBatch * sizeof(int))];
};

}  // namespace

void Stub::open_channel(int number, size_t spare) {
  static_assert(sizeof(Inbox) <= 4096);
  const RemotePtr at = leader().put(std::array<int, 2>{});
  leader().call("socketpair", SYS_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, at.addr);
  const auto ends = leader().get<std::array<int, 2>>(at);
  channel_.reset(static_cast<int>(::syscall(SYS_pidfd_getfd, pid_fd_.get(), ends[0], 0)));
  if (!channel_) fail_errno("{}: taking a descriptor of the new process", pid_);
  // Out of the way of the numbers of the image, which may lie beyond the limit that the stub has inherited from us.
  rlimit limit = {};
  const auto wanted = static_cast<rlim_t>(number) + spare + 64;
  if (prlimit(pid_, RLIMIT_NOFILE, nullptr, &limit) == 0 && limit.rlim_cur < wanted) {
    limit.rlim_cur = wanted;
    limit.rlim_max = std::max(limit.rlim_max, wanted);
    if (prlimit(pid_, RLIMIT_NOFILE, &limit, nullptr) != 0) fail_errno("{}: room for {} descriptors", pid_, number);
  }
  remote_channel_ = static_cast<int>(
      leader().call("fcntl", SYS_fcntl, static_cast<uint64_t>(ends[1]), F_DUPFD_CLOEXEC, static_cast<uint64_t>(number)));
  leader().call("close", SYS_close, static_cast<uint64_t>(ends[0]));
  leader().call("close", SYS_close, static_cast<uint64_t>(ends[1]));
}

void Stub::close_channel() {
  if (remote_channel_ >= 0) leader().call("close", SYS_close, static_cast<uint64_t>(remote_channel_));
  remote_channel_ = -1;
  channel_.reset();
}

// One message of at most kBatch descriptors.
std::vector<int> Stub::receive(std::span<const int> local) {
  char control[CMSG_SPACE(kBatch * sizeof(int))] = {};
  char byte = 0;
  iovec piece = {&byte, 1};
  msghdr header = {};
  header.msg_iov = &piece;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = CMSG_SPACE(local.size_bytes());
  cmsghdr* c = CMSG_FIRSTHDR(&header);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(local.size_bytes());
  memcpy(CMSG_DATA(c), local.data(), local.size_bytes());
  while (sendmsg(channel_.get(), &header, MSG_NOSIGNAL) < 0) {
    if (errno != EINTR) fail_errno("{}: passing descriptors", pid_);
  }

  const RemotePtr at = scratch_;
  Inbox inbox = {};
  inbox.piece = {reinterpret_cast<void*>((at + offsetof(Inbox, byte)).addr), 1};
  inbox.header.msg_iov = reinterpret_cast<iovec*>((at + offsetof(Inbox, piece)).addr);
  inbox.header.msg_iovlen = 1;
  inbox.header.msg_control = reinterpret_cast<void*>((at + offsetof(Inbox, control)).addr);
  inbox.header.msg_controllen = sizeof(inbox.control);
  leader().put(inbox);
  leader().call("recvmsg", SYS_recvmsg, static_cast<uint64_t>(remote_channel_), at.addr, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  inbox = leader().get<Inbox>(at);
  cmsghdr got = {};
  memcpy(&got, inbox.control, sizeof(got));
  if ((inbox.header.msg_flags & MSG_CTRUNC) != 0 || got.cmsg_len != CMSG_LEN(local.size_bytes())) {
    fail(EMFILE, "{}: the new process could not take {} descriptors", pid_, local.size());
  }
  std::vector<int> numbers(local.size());
  memcpy(numbers.data(), inbox.control + CMSG_LEN(0), local.size_bytes());
  return numbers;
}

std::vector<int> Stub::give(std::span<const int> local) {
  std::vector<int> numbers;
  for (size_t i = 0; i < local.size(); i += kBatch) {
    const auto part = receive(local.subspan(i, std::min(kBatch, local.size() - i)));
    numbers.insert(numbers.end(), part.begin(), part.end());
  }
  return numbers;
}

// The kernel fills the lowest free numbers, so the i-th of a batch arrives at or below its own number, and where the
// image's table has no gaps it is there at once. Moving the highest first never meets one that has yet to move.
void Stub::place(std::span<const Placement> to) {
  for (size_t begin = 0; begin < to.size(); begin += kBatch) {
    const auto part = to.subspan(begin, std::min(kBatch, to.size() - begin));
    std::vector<int> local;
    for (const Placement& p : part) local.push_back(p.local);
    const std::vector<int> numbers = receive(local);
    for (size_t i = part.size(); i-- > 0;) {
      const auto at = static_cast<uint64_t>(numbers[i]);
      const auto want = static_cast<uint64_t>(part[i].number);
      if (at != want) {
        leader().call("dup3", SYS_dup3, at, want, part[i].cloexec ? O_CLOEXEC : 0);
        leader().call("close", SYS_close, at);
      } else if (!part[i].cloexec) {
        leader().call("fcntl", SYS_fcntl, at, F_SETFD, 0);
      }
    }
  }
}

}  // namespace ckpt
