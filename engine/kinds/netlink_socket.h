// Netlink sockets, netlink(7), of the families that keep nothing for a socket but what is here: routing, the socket monitor,
// device events. Those of other families are refused by name, as is one with messages that are not read yet.
//
//   fds/N    type netlink
//            object netlink-123456
//
//   objects/netlink-123456    protocol route|sock_diag|uevent
//                             socket raw|dgram
//                             port 1234                of bind(2) (nl_pid); absent for one that is not bound
//                             group 5                  one line each, a number from 1 on
//                             peer PORT GROUPS         of connect(2)
//                             netlink CAP_ACK 1        options of the level SOL_NETLINK
//                             user UID GID             of the socket itself
//                             options                  socket_options.h
#pragma once

#include "engine/kinds/kind.h"

namespace ckpt {

const DescriptorKind& netlink_socket_kind();

}  // namespace ckpt
