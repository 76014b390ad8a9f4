// Going to the background without losing an error: the parent waits at the terminal until the child is mounted.
#pragma once

#include <string>

#include "engine/base/fd.h"

namespace ckpt {

/// Forks before any thread is started (threads do not survive a fork). The parent never returns from begin(): it
/// prints what the child reports and exits.
class Background {
 public:
  /// In the child: a new session, and the report pipe. Throws Error where there is no process to be had.
  void begin();
  /// Tells the parent that all is well, and lets go of terminal and working directory. Nothing without begin().
  void ready();
  /// Tells the parent why there is no mount; it prints the sentence and exits with 1. Prints it itself without
  /// begin().
  void failed(const std::string& sentence);

 private:
  UniqueFd report_;
};

}  // namespace ckpt
