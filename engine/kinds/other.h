// What cannot be checkpointed: sockets, devices, io_uring, ... Matches everything and refuses it by its name.
#pragma once

#include "engine/kinds/kind.h"

namespace ckpt {

const DescriptorKind& other_kind();

}  // namespace ckpt
