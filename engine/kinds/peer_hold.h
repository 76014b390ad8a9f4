// A rule of nf_tables that drops what the peers of TCP connections send while nobody is there to take it: to the peer the
// host is out of reach for a while. `nft list ruleset` shows it as a table of its own:
//
//   table inet ckptfs-1234-17d3a8f2c41 { ... ip saddr . tcp sport . ip daddr . tcp dport @ipv4 drop ... }
#pragma once

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/base/fd.h"
#include "engine/kinds/inet_address.h"

namespace ckpt {

/// What a packet from the peer bears: its own address, and ours. Both of one family, unmapped().
using PeerPath = std::pair<InetAddress, InetAddress>;

/// In the network namespace of the calling thread. Not thread-safe.
class PeerHold {
 public:
  /// Drops them from here on, until the object or this process ends, in whatever way. Throws Error: EPERM without
  /// CAP_NET_ADMIN, EOPNOTSUPP where the kernel has no nf_tables.
  PeerHold(std::string name, std::vector<PeerPath> paths);
  ~PeerHold() = default;
  PeerHold(const PeerHold&) = delete;
  PeerHold& operator=(const PeerHold&) = delete;

  const std::string& name() const { return name_; }
  /// From here on a table `name` stays until it is removed (a connection at most a week). Throws Error.
  void keep();

 private:
  std::string name_;
  std::vector<PeerPath> paths_;
  UniqueFd owner_;               // whose end is that of the first table
};

/// Whether a field of an image may be the name of such a table.
bool is_hold_name(std::string_view name);
/// Removes what keep() has left. Nothing happens where it is not there, or cannot be. Throws nothing.
void end_peer_hold(const std::string& name) noexcept;
/// Whether this kernel can do it, and lets us.
bool can_hold_peers();

}  // namespace ckpt
