// Files of /proc that belong to the process itself, or to another process of the image, opened again when that is there.
//
//   type proc                           a file or directory below its directory in /proc, open for reading
//   path /proc/1234/maps
//   pos 0, flags 0x8000
//
// Refused where it is of a process outside the image, or was opened for writing.
#pragma once

#include "engine/kinds/kind.h"

namespace ckpt {

const DescriptorKind& proc_kind();

}  // namespace ckpt
