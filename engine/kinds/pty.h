// Pseudo-terminals of which the image has the master: the pair itself, what waits in it, who has it as controlling terminal.
//
//   fds/N    type ptmx                  the master
//            object pty-3
//   fds/N    type tty                   a slave, or /dev/tty where that stands for it (tty.h)
//            object pty-3
//
//   objects/pty-3     index 3                       of /dev/pts/3; another where it is in use
//                     master /dev/ptmx              what was opened
//                     slave open|closed|unopened    closed: it was open, and the master has seen its end
//                     termios IFLAG OFLAG CFLAG LFLAG LINE ISPEED OSPEED
//                     cc 03,1c,...                  control characters, in hex
//                     window ROWS COLUMNS XPIXEL YPIXEL
//                     owner MODE UID GID            of the slave's file
//                     packet 1, locked 1, exclusive 1
//                     session SID, foreground PGRP  where it is somebody's controlling terminal
//                     line TEXT | end TEXT | rest TEXT    input that the slave has to read, in order: a whole line, one
//                                                   that VEOF has ended, one that is not ended
//                     output TEXT                   what the master has to read
//
// A slave whose master has gone is only `hung_up 1` (tty.h).
#pragma once

#include "engine/kinds/kind.h"

namespace ckpt {

const DescriptorKind& ptmx_kind();

/// For a terminal: the name of the pair's object where the master is in the image, else nothing.
std::optional<std::string> pty_object(const CaptureContext& ctx, const OpenFd& fd);
/// Writes the object the first time it is met.
void capture_pty(const CaptureContext& ctx, const std::string& object);
/// Opens the slave of the pair, which is made the first time it is asked for. Throws Error.
UniqueFd open_pty_slave(const RestoreContext& ctx, const Record& record);
/// A slave whose master has gone.
UniqueFd open_hung_up_terminal(const RestoreContext& ctx, const Record& record);
/// Gives the pair to the process as its controlling terminal, if it was, by a descriptor of it there.
void finish_pty(const RestoreContext& ctx, const Record& record, int fd, Remote& leader);

}  // namespace ckpt
