// Rooms that are no descriptors: what a process (signal actions, timers, working directory, limits, ...) and each of
// its threads (signal mask, alternate stack, robust list, credentials, ...) hold in the kernel.
//
// Capture runs while every thread is stopped. Restore runs when descriptors, mappings, pages and all threads are there
// and none has run yet: first every process room in order, then every thread room in order for each thread (credentials
// last), then registers.
#pragma once

#include "engine/kinds/kind.h"
#include "engine/kinds/questions.h"

namespace ckpt {

struct ProcessRoom {
  const char* name;
  /// What capture() wants to know of the main thread.
  void (*ask)(const CaptureContext& ctx, Questions& questions);
  void (*capture)(const CaptureContext& ctx, const Questions& answers);
  void (*restore)(const RestoreContext& ctx, Remote& leader);
};

struct ThreadRoom {
  const char* name;
  /// What capture() wants to know of the thread; null for nothing.
  void (*ask)(Questions& questions);
  /// Adds its lines to the record of threads/TID.
  void (*capture)(const CaptureContext& ctx, Remote& thread, const Questions& answers, Record& out);
  void (*restore)(const RestoreContext& ctx, Remote& thread, const Record& record);
};

const std::vector<ProcessRoom>& process_rooms();
const std::vector<ThreadRoom>& thread_rooms();

/// All threads' records and all process files. `of_leader`: what else is asked of the main thread; answered by then.
void capture_rooms(const CaptureContext& ctx, const std::vector<Remote*>& threads, Questions& of_leader);
void restore_rooms(const RestoreContext& ctx, const std::vector<Remote*>& threads);

}  // namespace ckpt
