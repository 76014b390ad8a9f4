// The language of ctl: one command a line, `PID [option...]` or `VERB ARGUMENT [option...]`.
//
//   1234 exit name=before-upgrade
//   1234 every=1s keep=60,24h until=8h
//   1234 every=never
//   restore 1234 stopped
//   restore 1234@17 replace
//   restore 1234 pidns
//   delete 1234@1
//   gc now|dry-run
//   check 1234
//   check sampled|full
//
// Only text is decided here: nothing is looked up, nothing is run. Hostile input is expected.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "ckptfs/image_directory.h"
#include "ckptfs/series_rule.h"
#include "engine/answer.h"
#include "engine/engine.h"

namespace ckpt {

struct CheckpointCommand {
  pid_t pid = 0;
  AfterCapture after = AfterCapture::go_on;
  std::string name;   ///< label; empty for the pid
  bool dry_run = false;        ///< only find out whether it could be done (`check`)
  bool cpu = false;            ///< CKPT_CPU: registers and tables without memory
  bool hold_linkcnt = false;   ///< CKPT_HOLD_LINKCNT
  int into = -1;               ///< descriptor of the process, -1 for images/
  std::shared_ptr<const ImageDirectory> directory;   ///< for into; ctl's business, who knows the writer
  bool no_sockets = false;             ///< CKPT_NO_SOCKETS
  bool no_pgrp_ttys = false;           ///< CKPT_NO_PGRP_TTYS
  uint64_t answer_at = 0;              ///< address in the process (libckpt/answer.h), 0 for none
  std::shared_ptr<AnswerSlot> answer;  ///< for answer_at; ctl's business, who knows the writer
  std::optional<SeriesRule> series;    ///< the first of many
  bool full = false;                   ///< of a series: read everything each time
  bool track = false;                  ///< from here on only what is written since is read
};

/// `PID every=never`.
struct EndSeriesCommand {
  pid_t pid = 0;
};

struct RestoreCommand {
  std::string name;
  bool stopped = false;
  bool pidns = false;     ///< in a pid namespace of its own
  bool replace = false;   ///< whoever has its pids is stored and ended; not with pidns
  bool lazy = false;      ///< it runs at once, and its memory comes meanwhile; not with pidns
};

struct DeleteCommand {
  std::string name;
};

/// Free the pages that no image refers to.
struct GcCommand {
  bool dry_run = false;   ///< only count them
};

/// Compare the store's pages with their digests.
struct CheckCommand {
  bool full = false;      ///< every one, not one in a hundred
};

using Command = std::variant<CheckpointCommand, EndSeriesCommand, RestoreCommand, DeleteCommand, GcCommand, CheckCommand>;

/// Longest line in bytes, without its newline.
inline constexpr size_t kMaxCommandLine = 4096;

/// Splits what was written to ctl into its lines; empty lines and comments (#) are left out. Throws Error(EINVAL)
/// for what is not text (a control byte other than tab) or has a line above kMaxCommandLine: then no line of it is
/// to be run.
std::vector<std::string_view> split_commands(std::string_view written);

/// Parses one line. Throws Error with a sentence that names the word: EINVAL for one that is unknown, given twice or
/// missing; EOPNOTSUPP for a flag of ckpt_checkpoint(2) that is known but cannot be honoured.
Command parse_command(std::string_view line);

}  // namespace ckpt
