#include "engine/kinds/sock_diag.h"

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>

#include <cstring>

#include "engine/base/error.h"
#include "engine/base/fd.h"

namespace ckpt {

namespace {

struct UnixRequest {
  nlmsghdr header;
  unix_diag_req body;
};

template <typename T>
std::optional<T> value_of(const rtattr* attribute) {
  T value{};
  if (RTA_PAYLOAD(attribute) < sizeof value) return std::nullopt;
  std::memcpy(&value, RTA_DATA(attribute), sizeof value);
  return value;
}

void read_attribute(const rtattr* attribute, UnixDiag& out) {
  const auto* data = static_cast<const char*>(RTA_DATA(attribute));
  const size_t size = RTA_PAYLOAD(attribute);
  switch (attribute->rta_type) {
    case UNIX_DIAG_NAME: out.name.assign(data, size); break;
    case UNIX_DIAG_PEER: out.peer = value_of<uint32_t>(attribute); break;
    case UNIX_DIAG_SHUTDOWN: out.shutdown = value_of<uint8_t>(attribute).value_or(0); break;
    case UNIX_DIAG_ICONS:
      for (size_t at = 0; at + sizeof(uint32_t) <= size; at += sizeof(uint32_t)) {
        uint32_t inode = 0;
        std::memcpy(&inode, data + at, sizeof inode);
        out.pending.push_back(inode);
      }
      break;
    case UNIX_DIAG_RQLEN:
      if (const auto lengths = value_of<unix_diag_rqlen>(attribute)) out.backlog = lengths->udiag_wqueue;
      break;
    case UNIX_DIAG_VFS:
      // The device as the kernel itself keeps it: 12 bits of major, 20 bits of minor number.
      if (const auto file = value_of<unix_diag_vfs>(attribute)) {
        out.file.emplace(makedev(file->udiag_vfs_dev >> 20, file->udiag_vfs_dev & 0xfffff), file->udiag_vfs_ino);
      }
      break;
    default: break;
  }
}

UnixDiag read_message(const nlmsghdr* header) {
  unix_diag_msg message;
  std::memcpy(&message, NLMSG_DATA(header), sizeof message);
  UnixDiag out;
  out.inode = message.udiag_ino;
  out.type = message.udiag_type;
  out.state = message.udiag_state;
  auto rest = static_cast<unsigned>(header->nlmsg_len - NLMSG_LENGTH(sizeof message));
  const auto* attribute = reinterpret_cast<const rtattr*>(static_cast<const char*>(NLMSG_DATA(header)) +
                                                          NLMSG_ALIGN(sizeof message));
  for (; RTA_OK(attribute, rest); attribute = RTA_NEXT(attribute, rest)) read_attribute(attribute, out);
  // A path ends with its NUL where there was room for one.
  if (!out.name.empty() && out.name[0] != '\0') out.name.resize(strnlen(out.name.data(), out.name.size()));
  return out;
}

void send_request(int fd) {
  UnixRequest request = {};
  request.header.nlmsg_len = sizeof request;
  request.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  request.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  request.body.sdiag_family = AF_UNIX;
  request.body.udiag_states = ~0u;
  request.body.udiag_show = UDIAG_SHOW_NAME | UDIAG_SHOW_VFS | UDIAG_SHOW_PEER | UDIAG_SHOW_ICONS | UDIAG_SHOW_RQLEN;
  if (::send(fd, &request, sizeof request, 0) != sizeof request) fail_errno("sock_diag: asking for the unix sockets");
}

/// False at the end of the list.
bool receive_part(int fd, std::map<ino_t, UnixDiag>& sockets) {
  alignas(nlmsghdr) char buffer[65536];
  const ssize_t n = ::recv(fd, buffer, sizeof buffer, 0);
  if (n < 0 && errno == EINTR) return true;
  if (n < 0) fail_errno("sock_diag: the unix sockets");
  auto rest = static_cast<unsigned>(n);
  for (auto* h = reinterpret_cast<const nlmsghdr*>(buffer); NLMSG_OK(h, rest); h = NLMSG_NEXT(h, rest)) {
    if (h->nlmsg_type == NLMSG_DONE) return false;
    if (h->nlmsg_type == NLMSG_ERROR) {
      nlmsgerr error = {};
      std::memcpy(&error, NLMSG_DATA(h), sizeof error);
      if (error.error == -ENOENT) fail(EOPNOTSUPP, "unix sockets: this kernel has no monitor for them (CONFIG_UNIX_DIAG)");
      fail(-error.error, "sock_diag: the unix sockets: {}", errno_text(-error.error));
    }
    UnixDiag one = read_message(h);
    sockets.insert_or_assign(one.inode, std::move(one));
  }
  return true;
}

}  // namespace

std::map<ino_t, UnixDiag> list_unix_sockets() {
  const UniqueFd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
  if (!fd) fail_errno("sock_diag: socket");
  std::map<ino_t, UnixDiag> sockets;
  send_request(fd.get());
  while (receive_part(fd.get(), sockets)) {
  }
  return sockets;
}

}  // namespace ckpt
