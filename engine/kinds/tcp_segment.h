// A segment of TCP as if the peer had sent it.
#pragma once

#include <cstdint>

#include "engine/kinds/inet_address.h"

namespace ckpt {

/// Delivers to the local socket at `to` the end of what the peer `from` sends (FIN), which it will not send again. Both are
/// of one family. Throws Error; EPERM without CAP_NET_RAW.
void deliver_fin(const InetAddress& from, const InetAddress& to, uint32_t sequence, uint32_t acknowledged, uint16_t window);

}  // namespace ckpt
