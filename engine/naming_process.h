// Whose an error is, in its sentence.
#pragma once

#include <utility>

#include "engine/base/error.h"
#include "engine/memory/snapshot.h"

namespace ckpt {

/// Of a process, a sentence begins with its pid; of the store, with a file of that; of /proc, with a file's name alone.
inline bool names_process(const Error& error) {
  const std::string& sentence = error.sentence();
  return !sentence.empty() && sentence[0] >= '0' && sentence[0] <= '9';
}

/// Runs `work`. Its Error gets the pid in front where it names no process.
template <typename F>
void naming_process(pid_t pid, F&& work) {
  try {
    std::forward<F>(work)();
  } catch (const SnapshotLost&) {
    throw;
  } catch (const Error& error) {
    if (names_process(error)) throw;
    throw Error(error.err(), fmt::format("{}: {}", pid, error.sentence()), error.where());
  }
}

}  // namespace ckpt
