// Internet sockets, IPv4 and IPv6: UDP and UDP-lite, and TCP.
//
//   fds/N    type inet
//            object inet-123456
//
//   objects/inet-123456    domain inet|inet6
//                          socket tcp|udp|udplite
//                          state unconnected|listening|connected|established|ended
//                          local ADDRESS PORT [SCOPE]        its own address where it has one (as peer: whom it is
//                          peer ADDRESS PORT [SCOPE]         connected to)
//                          backlog 128                       of a listening one
//                          sequence, window, ...             of an established one: tcp_connection.h
//                          user UID GID                      of the socket itself
//                          options                           socket_options.h, inet_options.h
//
// With CKPT_NO_SOCKETS a TCP connection is an unconnected socket, and what waits to be read or accepted is left out.
// Sockets of all other families are refused by name.
#pragma once

#include "engine/kinds/kind.h"

namespace ckpt {

/// Matches every socket: asked after those kinds that know one better.
const DescriptorKind& inet_socket_kind();

/// The name of the rule that waits for the resume of an image's TCP connections (peer_hold.h), empty for none. Throws Error.
std::string recorded_hold(const ImageSource& image);

}  // namespace ckpt
