// checkpoint(): the attempts at one, in a thread of their own.
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "engine/base/error.h"
#include "engine/base/parallel.h"
#include "engine/checkpoint_tree.h"
#include "engine/engine.h"
#include "engine/naming_process.h"

namespace ckpt {
namespace {

/// Another checkpoint has a descendant that was born just now; it ends, and takes its time.
void wait_for_other(CaptureLessons& lessons, const CancelFlag* cancel) {
  if (lessons.busy == 0) return;
  CaptureTurns turn;
  turn.take(lessons.busy, cancel);
  lessons.busy = 0;
}

CheckpointResult attempt(Store& store, pid_t pid, const Caller& caller, const CheckpointOptions& options,
                         CaptureLessons& lessons, bool& again) {
  CaptureTurns turns;
  turns.take(pid, options.cancel);
  TreeCapture capture(store, pid, caller, options, turns, lessons);
  try {
    return capture.run();
  } catch (const Error& e) {
    again = capture.worth_another(e);
    // Whatever file of /proc it was that could not be read any more.
    const bool told = e.err() == ESRCH && names_process(e);
    if (!again && !told && capture.root_ended()) fail(ESRCH, "{}: the process has ended ({})", pid, e.sentence());
    throw;
  }
}

/// A tracer is a thread: when it ends, whatever it still traces goes on. That is so when this returns.
template <typename F>
void in_tracer(const F& work) {
  pid_t tid = 0;
  try {
    in_thread([&] {
      tid = static_cast<pid_t>(::syscall(SYS_gettid));
      work();
    });
  } catch (...) {
    // To be joined, a thread need only be done with our memory; it lets go of its tracees afterwards (do_exit()).
    const std::string task = fmt::format("/proc/self/task/{}", tid);
    while (::access(task.c_str(), F_OK) == 0) std::this_thread::sleep_for(std::chrono::microseconds(50));
    throw;
  }
}

}  // namespace

CheckpointResult checkpoint(Store& store, pid_t pid, const Caller& caller, const CheckpointOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  check_may_checkpoint(caller, pid);
  if (!options.name.empty() && !valid_image_name(options.name)) {
    fail(EINVAL, "{}: '{}' cannot be the name of an image", pid, options.name);
  }
  CheckpointResult result;
  CaptureLessons lessons;
  for (bool again = true; again;) {
    again = false;
    wait_for_other(lessons, options.cancel);
    naming_process(pid, [&] {
      try {
        in_tracer([&] { result = attempt(store, pid, caller, options, lessons, again); });
      } catch (const Error&) {
        if (!again) throw;
      }
    });
  }
  result.total_ns = static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start).count());
  return result;
}

}  // namespace ckpt
