// Unix sockets that nobody else is tied to: never connected and without a name, or hung up by a peer that is gone (the
// java virtual machine keeps one of these). Every other one is refused by name until process trees and peers are there.
//
//   fds/N    type unix
//            socket stream|seqpacket|dgram
//            state unconnected|hung_up        (hung_up: reading ends at once, writing is EPIPE)
#pragma once

#include "engine/kinds/kind.h"

namespace ckpt {

const DescriptorKind& unix_socket_kind();

}  // namespace ckpt
