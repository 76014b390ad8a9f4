#include "engine/kinds/peer_hold.h"

#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>

#include "engine/base/error.h"
#include "engine/kinds/netlink_message.h"

namespace ckpt {

namespace {

constexpr std::string_view kPrefix = "ckptfs-";
constexpr size_t kMaxName = 60;
constexpr uint64_t kWeek = 7ull * 24 * 3600 * 1000;  // ms
constexpr uint32_t kPriority = 200;              // after all that other tables change of addresses (NAT is at 100)
constexpr uint32_t kTableOwner = 0x2;            // NFT_TABLE_F_OWNER, Linux 5.12: the table ends with its socket
constexpr size_t kElementsAtOnce = 500;          // an attribute has less than 64 KiB
// The types of nft(8) by which it shows the elements of a set, six bits each.
constexpr uint32_t kTypeIpv4 = 7, kTypeIpv6 = 8, kTypePort = 13;

constexpr uint16_t message(uint16_t type) { return static_cast<uint16_t>(NFNL_SUBSYS_NFTABLES << 8 | type); }

/// What differs between the two families.
struct Family {
  const char* set;
  int domain;
  uint8_t protocol;              // NFPROTO_
  uint32_t address, source, destination, type;
  uint32_t id;
};
constexpr Family kFamilies[] = {{"ipv4", AF_INET, NFPROTO_IPV4, 4, 12, 16, kTypeIpv4, 1},
                                {"ipv6", AF_INET6, NFPROTO_IPV6, 16, 8, 24, kTypeIpv6, 2}};

class Batch {
 public:
  Batch() { edge(NFNL_MSG_BATCH_BEGIN); }

  void begin(uint16_t type, uint16_t flags = 0) {
    messages_.begin(message(type), flags, nfgenmsg{NFPROTO_INET, NFNETLINK_V0, 0});
  }
  NetlinkMessages& operator*() { return messages_; }
  NetlinkMessages* operator->() { return &messages_; }

  /// Throws Error with what the kernel says of the first message that fails.
  void send(int fd, const std::string& what) {
    const uint32_t last = messages_.sequence();
    edge(NFNL_MSG_BATCH_END);
    const auto bytes = messages_.finish();
    const int room = static_cast<int>(bytes.size() * 2 + (1 << 20));
    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room);
    if (::send(fd, bytes.data(), bytes.size(), 0) < 0) fail_errno("{}", what);
    alignas(nlmsghdr) char answer[16384];
    for (;;) {
      const ssize_t n = ::recv(fd, answer, sizeof answer, 0);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail_errno("{}", what);
      auto rest = static_cast<unsigned>(n);
      for (auto* h = reinterpret_cast<const nlmsghdr*>(answer); NLMSG_OK(h, rest); h = NLMSG_NEXT(h, rest)) {
        if (h->nlmsg_type != NLMSG_ERROR) continue;
        nlmsgerr error = {};
        std::memcpy(&error, NLMSG_DATA(h), sizeof error);
        if (error.error != 0) fail(-error.error, "{}: {}", what, errno_text(-error.error));
        if (h->nlmsg_seq == last) return;
      }
    }
  }

 private:
  void edge(uint16_t type) { messages_.begin(type, 0, nfgenmsg{AF_UNSPEC, NFNETLINK_V0, __builtin_bswap16(NFNL_SUBSYS_NFTABLES)}); }
  NetlinkMessages messages_;
};

void add_expression(NetlinkMessages& m, const char* name, auto&& data) {
  m.nested(NFTA_LIST_ELEM, [&] {
    m.add(NFTA_EXPR_NAME, std::string(name));
    m.nested(NFTA_EXPR_DATA, data);
  });
}

void add_meta_is(NetlinkMessages& m, uint32_t key, uint8_t value) {
  add_expression(m, "meta", [&] {
    m.add_be32(NFTA_META_KEY, key);
    m.add_be32(NFTA_META_DREG, NFT_REG_1);
  });
  add_expression(m, "cmp", [&] {
    m.add_be32(NFTA_CMP_SREG, NFT_REG_1);
    m.add_be32(NFTA_CMP_OP, NFT_CMP_EQ);
    m.nested(NFTA_CMP_DATA, [&] { m.add(NFTA_DATA_VALUE, &value, sizeof value); });
  });
}

/// Into the registers from `reg` on, of 4 bytes each.
void add_payload(NetlinkMessages& m, uint32_t base, uint32_t offset, uint32_t size, uint32_t& reg) {
  add_expression(m, "payload", [&] {
    m.add_be32(NFTA_PAYLOAD_DREG, reg);
    m.add_be32(NFTA_PAYLOAD_BASE, base);
    m.add_be32(NFTA_PAYLOAD_OFFSET, offset);
    m.add_be32(NFTA_PAYLOAD_LEN, size);
  });
  reg += (size + 3) / 4;
}

void add_drop_rule(Batch& batch, const std::string& table, const Family& family) {
  batch.begin(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND);
  NetlinkMessages& m = *batch;
  m.add(NFTA_RULE_TABLE, table);
  m.add(NFTA_RULE_CHAIN, std::string("input"));
  m.nested(NFTA_RULE_EXPRESSIONS, [&] {
    add_meta_is(m, NFT_META_NFPROTO, family.protocol);
    add_meta_is(m, NFT_META_L4PROTO, IPPROTO_TCP);
    uint32_t reg = NFT_REG32_00;
    add_payload(m, NFT_PAYLOAD_NETWORK_HEADER, family.source, family.address, reg);
    add_payload(m, NFT_PAYLOAD_TRANSPORT_HEADER, 0, 2, reg);
    add_payload(m, NFT_PAYLOAD_NETWORK_HEADER, family.destination, family.address, reg);
    add_payload(m, NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, reg);
    add_expression(m, "lookup", [&] {
      m.add_be32(NFTA_LOOKUP_SREG, NFT_REG32_00);
      m.add(NFTA_LOOKUP_SET, std::string(family.set));
      m.add_be32(NFTA_LOOKUP_SET_ID, family.id);
    });
    add_expression(m, "immediate", [&] {
      m.add_be32(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
      m.nested(NFTA_IMMEDIATE_DATA, [&] {
        m.nested(NFTA_DATA_VERDICT, [&] { m.add_be32(NFTA_VERDICT_CODE, NF_DROP); });
      });
    });
  });
}

void append_end(std::string& key, const InetAddress& end) {
  const bool six = end.family() == AF_INET6;
  key.append(six ? reinterpret_cast<const char*>(&end.in6().sin6_addr) : reinterpret_cast<const char*>(&end.in().sin_addr),
             six ? sizeof(in6_addr) : sizeof(in_addr));
  const in_port_t port = six ? end.in6().sin6_port : end.in().sin_port;
  key.append(reinterpret_cast<const char*>(&port), sizeof port);
  key.append(2, '\0');
}

void add_set(Batch& batch, const std::string& table, const Family& family, const std::vector<PeerPath>& paths) {
  batch.begin(NFT_MSG_NEWSET, NLM_F_CREATE);
  NetlinkMessages& m = *batch;
  m.add(NFTA_SET_TABLE, table);
  m.add(NFTA_SET_NAME, std::string(family.set));
  m.add_be32(NFTA_SET_ID, family.id);
  m.add_be32(NFTA_SET_FLAGS, NFT_SET_TIMEOUT);
  m.add_be64(NFTA_SET_TIMEOUT, kWeek);
  m.add_be32(NFTA_SET_KEY_TYPE, ((family.type << 6 | kTypePort) << 6 | family.type) << 6 | kTypePort);
  m.add_be32(NFTA_SET_KEY_LEN, 2 * family.address + 8);
  for (size_t at = 0; at < paths.size(); at += kElementsAtOnce) {
    batch.begin(NFT_MSG_NEWSETELEM, NLM_F_CREATE);
    m.add(NFTA_SET_ELEM_LIST_TABLE, table);
    m.add(NFTA_SET_ELEM_LIST_SET, std::string(family.set));
    m.add_be32(NFTA_SET_ELEM_LIST_SET_ID, family.id);
    m.nested(NFTA_SET_ELEM_LIST_ELEMENTS, [&] {
      for (size_t i = at; i < std::min(paths.size(), at + kElementsAtOnce); ++i) {
        if (paths[i].first.family() != family.domain) continue;
        std::string key;
        append_end(key, paths[i].first);
        append_end(key, paths[i].second);
        m.nested(NFTA_LIST_ELEM, [&] {
          m.nested(NFTA_SET_ELEM_KEY, [&] { m.add(NFTA_DATA_VALUE, key.data(), key.size()); });
        });
      }
    });
  }
}

UniqueFd open_nfnetlink() {
  UniqueFd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER));
  if (!fd) fail_errno("nf_tables: a netlink socket");
  return fd;
}

void make_table(int fd, const std::string& name, uint32_t flags, const std::vector<PeerPath>& paths) {
  Batch batch;
  batch.begin(NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_EXCL);
  batch->add(NFTA_TABLE_NAME, name);
  batch->add_be32(NFTA_TABLE_FLAGS, flags);
  batch.begin(NFT_MSG_NEWCHAIN, NLM_F_CREATE);
  batch->add(NFTA_CHAIN_TABLE, name);
  batch->add(NFTA_CHAIN_NAME, std::string("input"));
  batch->add(NFTA_CHAIN_TYPE, std::string("filter"));
  batch->nested(NFTA_CHAIN_HOOK, [&] {
    batch->add_be32(NFTA_HOOK_HOOKNUM, NF_INET_LOCAL_IN);
    batch->add_be32(NFTA_HOOK_PRIORITY, kPriority);
  });
  for (const Family& family : kFamilies) {
    add_set(batch, name, family, paths);
    add_drop_rule(batch, name, family);
  }
  batch.begin(NFT_MSG_NEWCHAIN, NLM_F_ACK);  // the one that is there, to be answered
  batch->add(NFTA_CHAIN_TABLE, name);
  batch->add(NFTA_CHAIN_NAME, std::string("input"));
  batch.send(fd, fmt::format("the nf_tables table {}", name));
}

}  // namespace

PeerHold::PeerHold(std::string name, std::vector<PeerPath> paths)
    : name_(std::move(name)), paths_(std::move(paths)), owner_(open_nfnetlink()) {
  make_table(owner_.get(), name_ + "-now", kTableOwner, paths_);
}

void PeerHold::keep() { make_table(open_nfnetlink().get(), name_, 0, paths_); }

bool is_hold_name(std::string_view name) {
  const auto good = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || c == '-'; };
  return name.starts_with(kPrefix) && name.size() <= kMaxName && std::ranges::all_of(name.substr(kPrefix.size()), good);
}

void end_peer_hold(const std::string& name) noexcept {
  try {
    Batch batch;
    batch.begin(NFT_MSG_DELTABLE, NLM_F_ACK);
    batch->add(NFTA_TABLE_NAME, name);
    batch.send(open_nfnetlink().get(), name);
  } catch (const Error&) {
    // It is not there.
  }
}

bool can_hold_peers() {
  const UniqueFd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER));
  NetlinkMessages request;
  request.begin(message(NFT_MSG_GETGEN), 0, nfgenmsg{AF_UNSPEC, NFNETLINK_V0, 0});
  const auto bytes = request.finish();
  if (!fd || ::send(fd.get(), bytes.data(), bytes.size(), 0) < 0) return false;
  nlmsghdr answer = {};
  return ::recv(fd.get(), &answer, sizeof answer, 0) == sizeof answer && answer.nlmsg_type == message(NFT_MSG_NEWGEN);
}

}  // namespace ckpt
