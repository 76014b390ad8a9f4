// What waits in a pseudo-terminal: on the slave's side input as its line discipline has taken it (whole lines, a line that
// is not finished), on the master's side output. The kernel shows neither without handing it out: it is taken out and put
// back in one go that our death does not interrupt.
#pragma once

#include <asm/termbits.h>

#include <array>
#include <string>
#include <vector>

namespace ckpt {

/// A piece of a slave's input.
struct PtyInput {
  enum Kind { line, end, rest };  ///< ended by a newline or such; ended by VEOF; not ended, or not in lines at all
  Kind kind = rest;
  std::string text;
};

struct PtyContent {
  std::vector<PtyInput> input;    ///< to be read from the slave
  std::string output;             ///< to be read from the master
};

/// Looks at what waits. `slave` is -1 where nobody has it open. The process that uses the pair must be stopped. Throws Error:
/// EOPNOTSUPP where the queue is so full that it cannot be looked at.
PtyContent look_into_pty(int master, int slave, const std::string& where);

/// Puts it into a new pair; the terminal's settings are `termios` afterwards. Throws Error.
void fill_pty(int master, int slave, const PtyContent& content, const termios2& termios, const std::string& where);

}  // namespace ckpt
