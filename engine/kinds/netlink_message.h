// Messages of netlink(7) put together, attributes nested in one another.
//
//   NetlinkMessages batch;
//   batch.begin(NFT_MSG_NEWTABLE, NLM_F_CREATE, nfgenmsg{...});
//   batch.add(NFTA_TABLE_NAME, "x");
//   batch.nested(NFTA_CHAIN_HOOK, [&] { batch.add_be32(NFTA_HOOK_HOOKNUM, 1); });
#pragma once

#include <linux/netlink.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

namespace ckpt {

/// Not thread-safe.
class NetlinkMessages {
 public:
  /// A message whose head is followed by `family_header`; it ends where the next one begins.
  template <typename Header>
  void begin(uint16_t type, uint16_t flags, const Header& family_header) {
    close();
    start_ = bytes_.size();
    nlmsghdr header = {};
    header.nlmsg_type = type;
    header.nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | flags);
    header.nlmsg_seq = ++sequence_;
    append(&header, sizeof header);
    append(&family_header, sizeof family_header);
  }

  void add(uint16_t type, const void* value, size_t size) {
    const nlattr head = {static_cast<uint16_t>(sizeof(nlattr) + size), type};
    append(&head, sizeof head);
    append(value, size);
  }
  void add(uint16_t type, const std::string& text) { add(type, text.c_str(), text.size() + 1); }
  void add_be32(uint16_t type, uint32_t value) {
    value = __builtin_bswap32(value);
    add(type, &value, sizeof value);
  }
  void add_be64(uint16_t type, uint64_t value) {
    value = __builtin_bswap64(value);
    add(type, &value, sizeof value);
  }
  /// An attribute that holds those which `inner` adds: together less than 64 KiB.
  template <typename F>
  void nested(uint16_t type, F&& inner) {
    const size_t at = bytes_.size();
    add(static_cast<uint16_t>(type | NLA_F_NESTED), nullptr, 0);
    inner();
    const auto size = static_cast<uint16_t>(bytes_.size() - at);
    std::memcpy(bytes_.data() + at + offsetof(nlattr, nla_len), &size, sizeof size);
  }

  /// All messages; the number of the last.
  std::span<const char> finish() {
    close();
    return bytes_;
  }
  uint32_t sequence() const { return sequence_; }

 private:
  void append(const void* from, size_t size) {
    if (size != 0) bytes_.append(static_cast<const char*>(from), size);
    bytes_.append(NLMSG_ALIGN(size) - size, '\0');
  }
  void close() {
    if (bytes_.empty()) return;
    const auto size = static_cast<uint32_t>(bytes_.size() - start_);
    std::memcpy(bytes_.data() + start_ + offsetof(nlmsghdr, nlmsg_len), &size, sizeof size);
  }

  std::string bytes_;
  size_t start_ = 0;
  uint32_t sequence_ = 0;
};

}  // namespace ckpt
