// A copy of an image beside others: resumed under its old pids, in a pid namespace that has nobody else in it.
//
// Whatever the engine knows of a process it knows by its pid and by /proc. So it is a process inside that does the work: the
// namespace's init, with a mount namespace and a /proc of its own, which is this program again. It stays, as an init must:
// it reaps, ends when its last descendant has ended, and has the exit status of the image's root process (128 + N for
// signal N). Who ends it with SIGKILL ends all.
//
//   ckptfs (a worker)  --spawn-->  helper  --unshare, fork-->  init  --resume-->  the image's processes
#pragma once

#include <sys/types.h>

#include <string>

#include "engine/engine.h"

namespace ckpt {

struct PidNamespaceResult {
  pid_t inside = 0;     ///< pid of the image's root process there, as in the image
  pid_t outside = 0;    ///< and here
  std::string note;     ///< as in ResumeResult
};

/// Resumes the image in a directory of the filesystem at `mountpoint`, which the new mount namespace does not keep. For a caller
/// with all rights only. All or nothing: after an error, or when this process dies meanwhile, no process and no namespace
/// is left. Throws Error as resume() does. Thread-safe; blocks.
PidNamespaceResult resume_in_pid_namespace(const std::string& image, const std::string& mountpoint, bool stopped,
                                           const CancelFlag* cancel);

/// Whether the program was started as the helper; then its whole main.
bool is_pid_namespace_helper(int argc, char** argv);
[[noreturn]] void pid_namespace_helper(char** argv);

}  // namespace ckpt
