// Pseudo-terminals of which a process of the image has the master: the pair itself, what waits in it, whose controlling
// terminal it is.
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
//                     session SID, foreground PGRP  where it is somebody's controlling terminal; the session's leader is in
//                                                   the image
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
/// What a slave in its process still lacks.
void finish_pty_slave(const RestoreContext& ctx, const Record& record, int fd, Remote& leader);
/// The pair that is the controlling terminal of the session that the process leads; ctx.objects has those of the whole
/// image.
std::optional<std::string> find_controlling_terminal(const RestoreContext& ctx);
/// Gives it to the leader, who has just made the session: whoever is born into it later has it as well. Throws Error.
void take_controlling_terminal(const RestoreContext& ctx, Remote& leader);
/// Puts the group that was in its foreground there, when every process is in its group. Throws Error.
void restore_foreground(const RestoreContext& ctx, Remote& leader);

}  // namespace ckpt
