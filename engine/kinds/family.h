// How the processes of a checkpoint stand to each other: parents, process groups, sessions, and children that have ended.
//
//   family          one a process
//
//     parent 1234           pid; absent for the root process
//     parent_thread 1235    the thread of the parent that it is the child of, where that is not the main thread
//     group 1234            process group, as the system numbers it
//     session 1234
//     exit_signal 17        what its end sends to the parent; 0 for none
//     memory_of 1234        and others: what it has in common with another process (sharing.h)
//     exit_status 0x100     of a zombie: it has ended, with this status (as wait(2) tells it), and its parent has not waited
//                           for it yet. It has no other files but status
//
// The processes are made with these relations by engine/resume_family.h.
#pragma once

#include <csignal>
#include <optional>
#include <string>

#include "engine/image/image.h"
#include "engine/kinds/sharing.h"

namespace ckpt {

struct Relations {
  pid_t pid = 0;
  pid_t parent = 0;              ///< 0 for the root process
  pid_t parent_thread = 0;       ///< thread id; `parent` for the main thread
  pid_t group = 0;
  pid_t session = 0;
  int exit_signal = SIGCHLD;
  Sharing shares;
  std::optional<int> exit_status;  ///< of a zombie
};

/// From /proc/PID/stat. The parent and what it shares are left out. Throws Error(ESRCH).
Relations read_relations(int proc_dir, pid_t pid);

void capture_family(ImageSink& image, const std::string& prefix, const Relations& relations);

/// Throws Error(EINVAL) for a malformed one. An image of a single process may have none: `status` serves.
Relations parse_family(const ImageSource& image, const std::string& prefix, pid_t pid);

}  // namespace ckpt
