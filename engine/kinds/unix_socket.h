// Unix sockets: stream, seqpacket and datagram sockets whose other ends are in the image, with what is queued in them.
//
//   fds/N    type unix
//            object unix-4711        the socket itself, objects/unix-4711, see unix_record.h
//
// An end that is outside the image refuses the checkpoint by name; with CKPT_NO_SOCKETS it is captured as closed.
#pragma once

#include "engine/kinds/kind.h"

namespace ckpt {

const DescriptorKind& unix_socket_kind();

}  // namespace ckpt
