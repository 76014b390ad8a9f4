// What became of the commands: the lines that a reader of ctl gets.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <string_view>

#include "ckptfs/request.h"

namespace ckpt {

/// Whose line it is. A reader of ctl gets
///  - the lines of its own open file, where it has written commands through it (a program that opens ctl once);
///  - else those of its user in its session, so that `echo 1 > ctl; cat ctl` in one shell shows the outcome and the
///    neighbour's terminal does not;
///  - else, where its session has given no command, those of its user (`ssh host cat ctl`).
struct LogKey {
  uid_t uid = 0;
  pid_t session = -1;
  uint64_t handle = 0;   ///< 0 for none

  static LogKey of(const Request& request, uint64_t handle = 0) {
    return {request.uid, request.session(), handle};
  }
};

/// Bounded: the oldest lines go first. Thread-safe.
class CommandLog {
 public:
  /// Control bytes come out as backslash and three octal digits: what is added is one line.
  void add(const LogKey& key, std::string_view line);
  /// The newest lines for a reader, oldest first, each with its newline.
  std::string read(const LogKey& reader) const;

 private:
  static constexpr size_t kMaxLines = 4096;         ///< kept for all
  static constexpr size_t kMaxLinesOfAUser = 256;   ///< kept for one, so that nobody pushes the others' lines out
  static constexpr size_t kMaxLinesRead = 64;

  struct Line {
    LogKey key;
    std::string text;
  };
  mutable std::mutex mutex_;   ///< innermost
  std::deque<Line> lines_;
};

}  // namespace ckpt
