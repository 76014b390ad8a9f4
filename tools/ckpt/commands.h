// The subcommands of `ckpt`. Each adds itself, with its options, to the program; when it is chosen its `run`
// is called and returns the exit code.
#pragma once

#include <CLI/CLI.hpp>

#include <functional>
#include <string>

#include "tools/ckpt/session.h"

namespace ckpt::tool {

/// What was chosen on the command line.
struct Choice {
  std::function<int(Session&)> run;
  int trouble = kFailed;  ///< exit code where `run` throws
};

void add_save(CLI::App& app, Choice& choice);
void add_restore(CLI::App& app, Choice& choice);
void add_ls(CLI::App& app, Choice& choice);
void add_rm(CLI::App& app, Choice& choice);
void add_diff(CLI::App& app, Choice& choice);
void add_seal(CLI::App& app, Choice& choice);
void add_check(CLI::App& app, Choice& choice);
void add_gc(CLI::App& app, Choice& choice);
void add_stats(CLI::App& app, Choice& choice);

}  // namespace ckpt::tool
