#include "engine/kinds/netlink_socket.h"

#include <linux/netlink.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/xattr.h>

#include <array>

#include "engine/base/error.h"
#include "engine/kinds/fd_flags.h"
#include "engine/kinds/pipe.h"
#include "engine/kinds/socket_options.h"

namespace ckpt {

namespace {

struct Named {
  const char* name;
  int number;
};
constexpr std::array kProtocols = {Named{"route", NETLINK_ROUTE}, Named{"sock_diag", NETLINK_SOCK_DIAG},
                                   Named{"uevent", NETLINK_KOBJECT_UEVENT}};
constexpr std::array kTypes = {Named{"raw", SOCK_RAW}, Named{"dgram", SOCK_DGRAM}};
constexpr std::array kOptions = {Named{"PKTINFO", NETLINK_PKTINFO},     Named{"BROADCAST_ERROR", NETLINK_BROADCAST_ERROR},
                                 Named{"NO_ENOBUFS", NETLINK_NO_ENOBUFS}, Named{"LISTEN_ALL_NSID", NETLINK_LISTEN_ALL_NSID},
                                 Named{"CAP_ACK", NETLINK_CAP_ACK},     Named{"EXT_ACK", NETLINK_EXT_ACK},
                                 Named{"GET_STRICT_CHK", NETLINK_GET_STRICT_CHK}};
constexpr uint64_t kMaxGroup = 4096;

const Named* find(const auto& table, std::optional<int> number) {
  for (const Named& one : table) {
    if (number == one.number) return &one;
  }
  return nullptr;
}

const Named& named(const auto& table, const Record& record, std::string_view field, std::string_view name) {
  for (const Named& one : table) {
    if (name == one.name) return one;
  }
  fail(EINVAL, "{}: {} '{}' is malformed", record.where(), field, escape(name));
}

sockaddr_nl address_of(int fd, int (*ask)(int, sockaddr*, socklen_t*) noexcept) {
  sockaddr_nl address = {};
  socklen_t size = sizeof address;
  if (ask(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) fail_errno("the address of a netlink socket");
  return address;
}

/// Numbers from 1 on. NETLINK_LIST_MEMBERSHIPS writes a bitmap.
std::vector<uint32_t> groups_of(int fd) {
  std::array<uint32_t, kMaxGroup / 32> bits = {};
  socklen_t size = sizeof bits;
  if (getsockopt(fd, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, bits.data(), &size) != 0) fail_errno("NETLINK_LIST_MEMBERSHIPS");
  std::vector<uint32_t> groups;
  for (uint32_t i = 0; i < kMaxGroup; ++i) {
    if ((bits[i / 32] >> (i % 32) & 1) != 0) groups.push_back(i + 1);
  }
  return groups;
}

/// sockfs_xattr_get() in net/socket.c.
bool is_netlink(const OpenFd& fd) {
  char name[32] = {};
  const std::string path = fmt::format("/proc/{}/fd/{}", fd.pid, fd.fd);
  return ::getxattr(path.c_str(), "system.sockprotoname", name, sizeof name - 1) > 0 && std::string_view(name) == "NETLINK";
}

std::optional<std::string> refuse_state(int fd) {
  const auto protocol = socket_option(fd, SOL_SOCKET, SO_PROTOCOL);
  if (find(kProtocols, protocol) == nullptr) return fmt::format("of the protocol {}", protocol.value_or(-1));
  pollfd state = {fd, POLLIN, 0};
  if (::poll(&state, 1, 0) == 1) {
    return (state.revents & POLLERR) != 0 ? "with an error that is not read yet" : "with messages that are not read yet";
  }
  return std::nullopt;
}

class NetlinkSocketKind : public DescriptorKind {
 public:
  const char* name() const override { return "netlink"; }
  bool matches(const OpenFd& fd) const override { return S_ISSOCK(fd.st.st_mode) && is_netlink(fd); }
  bool has_owner() const override { return true; }

  std::optional<std::string> refuse(const CaptureContext& ctx, const OpenFd& fd) const override {
    const UniqueFd mine = ctx.take(fd.fd);
    auto why = refuse_socket_options(mine.get());
    if (!why) why = refuse_state(mine.get());
    if (!why) return std::nullopt;
    return fmt::format("a netlink socket ({}) {} cannot be checkpointed", fd.target, *why);
  }

  void capture(const CaptureContext& ctx, const OpenFd& fd, Record& out) const override {
    const std::string object = fmt::format("netlink-{}", fd.st.st_ino);
    out.add("object", object);
    if (ctx.first(object)) ctx.image->put("objects/" + object, describe(ctx, fd).text());
  }

  UniqueFd restore(const RestoreContext& ctx, const Record& record) const override {
    const std::string path = "objects/" + object_name(record, "netlink-");
    UniqueFd fd = make(ctx, Record::parse(ctx.image->read(path), ctx.image->describe() + "/" + path));
    set_status_flags(fd.get(), record);
    return fd;
  }

 private:
  static Record describe(const CaptureContext& ctx, const OpenFd& fd) {
    const UniqueFd mine = ctx.take(fd.fd);
    const Named* protocol = find(kProtocols, socket_option(mine.get(), SOL_SOCKET, SO_PROTOCOL));
    const Named* type = find(kTypes, socket_option(mine.get(), SOL_SOCKET, SO_TYPE));
    if (protocol == nullptr || type == nullptr) fail(EOPNOTSUPP, "{}: fd {}: a netlink socket cannot be checkpointed", ctx.pid, fd.fd);
    Record out;
    out.add("protocol", protocol->name);
    out.add("socket", type->name);
    const sockaddr_nl local = address_of(mine.get(), getsockname), peer = address_of(mine.get(), getpeername);
    if (local.nl_pid != 0) out.add("port", local.nl_pid);
    for (const uint32_t group : groups_of(mine.get())) out.add("group", group);
    if (peer.nl_pid != 0 || peer.nl_groups != 0) out.add("peer", fmt::format("{} {}", peer.nl_pid, peer.nl_groups));
    for (const Named& option : kOptions) {
      if (const auto value = socket_option(mine.get(), SOL_NETLINK, option.number); value.value_or(0) != 0) {
        out.add("netlink", fmt::format("{} {}", option.name, *value));
      }
    }
    out.add("user", fmt::format("{} {}", fd.st.st_uid, fd.st.st_gid));
    capture_socket_options(mine.get(), out);
    return out;
  }

  static UniqueFd make(const RestoreContext& ctx, const Record& record) {
    const Named& protocol = named(kProtocols, record, "protocol", record.get("protocol"));
    const Named& type = named(kTypes, record, "socket", record.get("socket"));
    UniqueFd fd(::socket(AF_NETLINK, type.number | SOCK_CLOEXEC, protocol.number));
    if (!fd) fail_errno("{}: socket", record.where());
    restore_socket_options(fd.get(), record);
    for (const std::string& text : record.all("netlink")) {
      const auto words = split_words(text);
      const auto value = words.size() == 2 ? parse_u64(words[1]) : std::nullopt;
      if (!value || *value > INT32_MAX) fail(EINVAL, "{}: netlink '{}' is malformed", record.where(), escape(text));
      set(fd.get(), named(kOptions, record, "netlink", words[0]).number, static_cast<int>(*value), record);
    }
    sockaddr_nl address = {};
    address.nl_family = AF_NETLINK;
    if (record.has("port")) {
      address.nl_pid = static_cast<uint32_t>(record.get_u64("port", UINT32_MAX));
      if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
        fail_errno("{}: bind to port {}", record.where(), address.nl_pid);
      }
    }
    for (const std::string& text : record.all("group")) {
      const auto group = parse_u64(text);
      if (!group || *group == 0 || *group > kMaxGroup) fail(EINVAL, "{}: group '{}' is malformed", record.where(), escape(text));
      set(fd.get(), NETLINK_ADD_MEMBERSHIP, static_cast<int>(*group), record);
    }
    if (record.has("peer")) {
      const auto peer = record.get_numbers("peer", 2);
      address.nl_pid = static_cast<uint32_t>(peer[0]);
      address.nl_groups = static_cast<uint32_t>(peer[1]);
      if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
        fail_errno("{}: connect", record.where());
      }
    }
    restore_socket_user(fd.get(), record, ctx.caller);
    return fd;
  }

  static void set(int fd, int option, int value, const Record& record) {
    if (setsockopt(fd, SOL_NETLINK, option, &value, sizeof value) != 0) {
      fail_errno("{}: the netlink option {} {}", record.where(), option, value);
    }
  }
};

}  // namespace

const DescriptorKind& netlink_socket_kind() {
  static const NetlinkSocketKind kind;
  return kind;
}

}  // namespace ckpt
