// States that refuse a checkpoint, or need an option for one. `refused_state DIRECTORY NAME` makes one of them and then
// behaves as a self-checking program does (tests/programs/selfcheck.h), except that it leaves
//   DIR/words      what the refusal must say, a part of a sentence on each line; empty where this machine has no such thing
// A new state is one function and one line in a table; README.md has a row for it (support_test.cpp sees to that).
#pragma once

#include <string>
#include <vector>

#include "../programs/selfcheck.h"

struct RefusedState {
  const char* name;                    ///< as in the table of README.md
  std::vector<std::string> (*make)();  ///< makes the state; what the refusal must say
  const char* option = "";             ///< of ctl, with which the checkpoint is taken
};

const std::vector<RefusedState>& refused_files();
const std::vector<RefusedState>& refused_channels();
const std::vector<RefusedState>& refused_memory();
const std::vector<RefusedState>& refused_processes();

using Words = std::vector<std::string>;

/// "PID: fd N", and what else must be said of it.
inline std::string of_fd(int fd, const std::string& what = {}) {
  return std::to_string(getpid()) + ": fd " + std::to_string(fd) + (what.empty() ? "" : ": " + what);
}
inline std::string of_process(const std::string& what) { return std::to_string(getpid()) + ": " + what; }

/// Runs `work` in a process outside the tree, which then lives as long as this one; its pid.
pid_t outside(const std::function<void()>& work = {});
/// The same in a child, which is part of the tree.
pid_t child(const std::function<void()>& work = {});
