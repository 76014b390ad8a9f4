// Terminals. Where the terminal itself is outside the process, the record says which one it was, and it is opened again if it
// is still the same device of the same owner and the caller may open it. Otherwise the resume fails (ENXIO), and
// `ckpt restore -f` gives the program the terminal it is run on.
//
//   type tty
//   path, mode, dev, inode              see named_file.h
//   rdev 136:3
//   uid 1000                            who owned it
//   terminal /dev/pts/3                 for a path of /dev/tty: the controlling terminal it stood for
//   flags 0x8402
//   object pty-3                        instead of all these: the pair's master is in the image (pty.h)
//   hung_up 1                           instead: its other side had gone, or CKPT_NO_PGRP_TTYS leaves it out
#pragma once

#include "engine/kinds/kind.h"

namespace ckpt {

const DescriptorKind& tty_kind();

}  // namespace ckpt
