// What processes have in common that are no threads of each other: clone(2) with CLONE_VM, CLONE_FILES, CLONE_FS,
// CLONE_SIGHAND or CLONE_SYSVSEM, but without CLONE_THREAD. Told apart by kcmp(2).
//
// The first process of the image that has it owns it; in `family` of each of the others stand
//
//   memory_of 1234           it has neither maps, smaps, mm, files nor segments of its own
//   descriptors_of 1234      nor fds
//   directories_of 1234      root, cwd and umask; they are in both
//   signal_actions_of 1234   nor signals: they are in both
//   semaphore_undo_of 1234   CLONE_SYSVSEM: what SEM_UNDO has gathered, see sysv_sem.h
//
// The clone(2) that makes the process again gives it what is shared (engine/resume_family.h).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "engine/base/record.h"

namespace ckpt {

/// The owner of each, 0 where the process has its own.
struct Sharing {
  pid_t memory = 0;
  pid_t descriptors = 0;
  pid_t directories = 0;
  pid_t signal_actions = 0;
  pid_t semaphore_undo = 0;

  bool any() const { return *this != Sharing{}; }
  uint64_t clone_flags() const;
  bool operator==(const Sharing&) const = default;
};

struct SharingKind {
  pid_t Sharing::* owner;
  int kcmp_type;
  uint64_t clone_flag;
  const char* field;             ///< in `family`
  const char* what;              ///< for messages
};
std::span<const SharingKind> sharing_kinds();

/// Of those processes that share something with an earlier one of `pids`: what. A comparison for each process and each
/// doubling of their number. One that has ended, or is not ours to compare, shares nothing.
std::map<pid_t, Sharing> find_sharing(const std::vector<pid_t>& pids);

/// Whether a thread has what all threads of a process commonly share, and another than the first: by kcmp(2). False of one
/// that has ended, or is not ours to compare. One that ends may have nothing any more, which counts as another.
bool differs(pid_t first, pid_t thread, const SharingKind& kind);

/// Whether a process, or another that shares them, may have undo values of semaphores: it has used SEM_UNDO, or has had a
/// thread. The calling thread loses its own.
bool has_semaphore_undo(pid_t pid);

void add_sharing(const Sharing& sharing, Record& out);
/// Throws Error(EINVAL).
Sharing parse_sharing(const Record& record);

}  // namespace ckpt
