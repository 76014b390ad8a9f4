// Options of internet sockets, those of ip(7), ipv6(7), tcp(7), udp(7) that differ from what a new socket has:
//
//   ip TOS 16, ipv6 V6ONLY 1, tcp NODELAY 1, udp GRO 1      numbers
//   congestion cubic                                        TCP_CONGESTION
#pragma once

#include "engine/base/record.h"

namespace ckpt {

/// Adds what differs between the socket and `fresh`, a new one of its kind. TCP_MAXSEG of one that has had
/// a connection tells of that, and not what was set.
void capture_inet_options(int fd, int fresh, bool had_connection, Record& out);
/// Sets them again, before the socket is bound, with the rights of the calling thread (AsCaller). Throws Error.
void restore_inet_options(int fd, const Record& record);

/// Whether the socket has joined a multicast group, of those that this host is in (/proc/net/igmp, /proc/net/igmp6).
bool has_joined_multicast(int fd);

}  // namespace ckpt
