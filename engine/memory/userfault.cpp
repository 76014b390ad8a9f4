#include "engine/memory/userfault.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <array>
#include <cstddef>

#include "engine/base/error.h"

namespace ckpt {
namespace {

/// USERFAULTFD_IOC_NEW of /dev/userfaultfd (include/uapi/linux/userfaultfd.h, Linux 6.1).
constexpr unsigned long kUserfaultNew = _IO(0xAA, 0x00);

UniqueFd take_over(const Remote& remote, long fd) {
  const UniqueFd pid_fd(static_cast<int>(::syscall(SYS_pidfd_open, remote.pid(), 0)));
  return UniqueFd(pid_fd ? static_cast<int>(::syscall(SYS_pidfd_getfd, pid_fd.get(), fd, 0)) : -1);
}

/// The process is to close `count` descriptors by itself if we die: those that it will be given next, the last one
/// first. All its threads are stopped, so they are the lowest free numbers.
void close_on_our_death(Remote& remote, size_t count) {
  std::vector<SystemCall> closes;
  for (uint64_t fd = 0; closes.size() < count; ++fd) {
    struct stat st = {};
    if (::lstat(fmt::format("/proc/{}/fd/{}", remote.pid(), fd).c_str(), &st) == 0) continue;
    closes.insert(closes.begin(), SystemCall{SYS_close, {fd}});
  }
  remote.on_our_death(closes);
}

/// A descriptor in the process, closed there at the end. The last one made is the first one closed.
class RemoteFd {
 public:
  RemoteFd(Remote& remote, long fd) : remote_(remote), fd_(fd) {}
  RemoteFd(const RemoteFd&) = delete;
  ~RemoteFd() {
    remote_.drop_first_on_death();
    if (fd_ < 0) return;
    try {
      remote_.syscall(SYS_close, number());
    } catch (const Error&) {
      // The process has died; so has its table.
    }
  }
  bool ok() const { return fd_ >= 0; }
  int error() const { return static_cast<int>(-fd_); }
  uint64_t number() const { return static_cast<uint64_t>(fd_); }

 private:
  Remote& remote_;
  long fd_;
};

bool send_descriptor(int socket, int fd) {
  char byte = 0;
  iovec data{&byte, 1};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof fd)> control{};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof fd);
  std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
  return ::sendmsg(socket, &message, MSG_NOSIGNAL) == 1;
}

/// What the process's recvmsg works on, laid out in its scratch memory.
struct ReceiveArea {
  msghdr message;
  iovec data;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control;
  char byte;
};

/// Receives one descriptor inside the process from its socket `fd`. A number there, or -errno.
long receive_remotely(Remote& remote, uint64_t fd) {
  ReceiveArea area = {};
  const RemotePtr at = remote.scratch();
  area.data = {reinterpret_cast<void*>(at.addr + offsetof(ReceiveArea, byte)), 1};
  area.message.msg_iov = reinterpret_cast<iovec*>(at.addr + offsetof(ReceiveArea, data));
  area.message.msg_iovlen = 1;
  area.message.msg_control = reinterpret_cast<void*>(at.addr + offsetof(ReceiveArea, control));
  area.message.msg_controllen = area.control.size();
  remote.put(area);
  const long got = remote.syscall(SYS_recvmsg, fd, at.addr, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  if (got < 0) return got;
  area = remote.get<ReceiveArea>(at);
  if (area.message.msg_controllen < CMSG_LEN(sizeof(int))) return -EIO;
  int received = -1;
  std::memcpy(&received, area.control.data() + CMSG_LEN(0), sizeof received);
  return received;
}

/// userfaultfd for a process without CAP_SYS_PTRACE, made through our /dev/userfaultfd.
UniqueFd fetch_by_device(Remote& remote, uint64_t flags) {
  const UniqueFd device(::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
  if (!device) return {};
  close_on_our_death(remote, 4);
  const long pair = remote.syscall(SYS_socketpair, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, remote.scratch().addr);
  if (pair < 0) {
    remote.on_our_death({});
    errno = static_cast<int>(-pair);
    return {};
  }
  const auto ends = remote.get<std::array<int, 2>>(remote.scratch());
  const RemoteFd near(remote, ends[0]), far(remote, ends[1]);
  const UniqueFd ours = take_over(remote, ends[0]);
  if (!ours || !send_descriptor(ours.get(), device.get())) {
    remote.drop_first_on_death();  // neither lent nor made
    remote.drop_first_on_death();
    return {};
  }
  const RemoteFd lent(remote, receive_remotely(remote, far.number()));
  if (!lent.ok()) {
    remote.drop_first_on_death();  // nothing will be made
    errno = lent.error();
    return {};
  }
  const RemoteFd made(remote, remote.syscall(SYS_ioctl, lent.number(), kUserfaultNew, flags | O_CLOEXEC | O_NONBLOCK));
  if (!made.ok()) {
    errno = made.error();
    return {};
  }
  return take_over(remote, static_cast<long>(made.number()));
}

UniqueFd fetch_by_call(Remote& remote, uint64_t flags) {
  close_on_our_death(remote, 1);
  const RemoteFd made(remote, remote.syscall(SYS_userfaultfd, flags | O_CLOEXEC | O_NONBLOCK));
  if (made.ok()) return take_over(remote, static_cast<long>(made.number()));
  errno = made.error();
  return {};
}

}  // namespace

UniqueFd fetch_userfaultfd(Remote& remote, uint64_t flags, uint64_t features) {
  UniqueFd uffd = fetch_by_call(remote, flags);
  if (!uffd && errno == EPERM) uffd = fetch_by_device(remote, flags);
  if (!uffd) return {};
  uffdio_api api = {};
  api.api = UFFD_API;
  api.features = features;
  if (::ioctl(uffd.get(), UFFDIO_API, &api) != 0) return {};
  return uffd;
}

uint64_t userfaultfd_features() {
  static const uint64_t features = [] {
    const UniqueFd uffd(static_cast<int>(::syscall(SYS_userfaultfd, kUffdUserModeOnly | O_CLOEXEC)));
    uffdio_api api = {};
    api.api = UFFD_API;
    return uffd && ::ioctl(uffd.get(), UFFDIO_API, &api) == 0 ? api.features : 0;
  }();
  return features;
}

WriteProtector::WriteProtector(UniqueFd uffd) : uffd_(std::move(uffd)) {
  fdinfo_ = open_at(AT_FDCWD, fmt::format("/proc/self/fdinfo/{}", uffd_.get()), O_RDONLY);
}

int WriteProtector::add(Range range) const {
  uffdio_register reg = {};
  reg.range = {range.start, range.size()};
  reg.mode = UFFDIO_REGISTER_MODE_WP;
  return ::ioctl(uffd_.get(), UFFDIO_REGISTER, &reg) == 0 ? 0 : errno;
}

int WriteProtector::remove(Range range) const {
  uffdio_range r = {range.start, range.size()};
  return ::ioctl(uffd_.get(), UFFDIO_UNREGISTER, &r) == 0 ? 0 : errno;
}

int WriteProtector::set(Range range, uint64_t mode) const {
  uffdio_writeprotect wp = {};
  wp.range = {range.start, range.size()};
  wp.mode = mode;
  int err;
  do {
    err = ::ioctl(uffd_.get(), UFFDIO_WRITEPROTECT, &wp) == 0 ? 0 : errno;
  } while (err == EINTR);
  return err;
}

int WriteProtector::unprotect_rest(Range range) const {
  const int whole = unprotect(range);
  if (whole != ENOENT) return whole;
  for (uint64_t at = range.start; at < range.end; at += kPageSize) {
    const int err = unprotect({at, at + kPageSize});
    if (err == EAGAIN || err == ESRCH) return err;
  }
  uffdio_range wake = {range.start, range.size()};
  ::ioctl(uffd_.get(), UFFDIO_WAKE, &wake);
  return 0;
}

std::optional<uffd_msg> WriteProtector::next_message() const {
  uffd_msg message = {};
  for (;;) {
    const ssize_t got = ::read(uffd_.get(), &message, sizeof message);
    if (got == static_cast<ssize_t>(sizeof message)) return message;
    if (got < 0 && errno == EINTR) continue;
    return std::nullopt;
  }
}

uint64_t WriteProtector::pending_faults() const {
  std::array<char, 512> text;
  const ssize_t got = ::pread(fdinfo_.get(), text.data(), text.size(), 0);
  const std::string_view info(text.data(), got > 0 ? static_cast<size_t>(got) : 0);
  constexpr std::string_view key = "pending:\t";
  const size_t at = info.find(key);
  if (at == std::string_view::npos) return 0;
  return std::strtoull(info.data() + at + key.size(), nullptr, 10);
}

}  // namespace ckpt
