// The engine: checkpoint a process and its descendants into the store, resume an image. What ckptfs and ckpt call.
//
//            ckptfs (FUSE)     tools (ckpt)          layers point downwards only
//                   \            /
//                    engine.h, engine/checkpoint, engine/resume
//                   /     |        |       \                        .
//           process/   memory/   kinds/    store/     (the store knows neither process nor kinds)
//                   \     |        |       /
//                       image/  base/
//
// The way of the data: stop (process/) -> rooms write records (kinds/) -> snapshot fixed (memory/) -> the process
// goes on -> workers read pages and put blocks -> ImageBuilder -> commit. Back: ImageSource -> plan, everything
// parsed and every file opened -> stub with the old pid -> descriptors, mappings, pages, threads -> go.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/caller.h"
#include "engine/image/image.h"
#include "engine/store/store.h"

namespace ckpt {

/// Set from any thread (FUSE_INTERRUPT, SIGINT) to end long work early with Error(EINTR).
using CancelFlag = std::atomic<bool>;

enum class AfterCapture {
  go_on,
  exit,
  stop,
  exit_but_root,               ///< the descendants end, the root is left stopped: its end is somebody else's to make
};

/// What reads a process: ptrace(2) and files of /proc alone, or the kernel module where it has something better.
enum class EngineChoice { automatic, kernel, ptrace };

class TrackingSet;

struct CheckpointOptions {
  AfterCapture after = AfterCapture::go_on;
  std::string name;            ///< label of the image; empty for the pid
  /// Address of the word by which the process itself hears of it (engine/answer.h), 0 for none.
  uint64_t answer_at = 0;
  /// False for registers and tables alone: an image to be read, which cannot be resumed.
  bool memory = true;
  /// Where the image goes instead of into the store: called when it is whole, and before a process that is not to go on is
  /// ended or left stopped. What it throws is the checkpoint's failure.
  std::function<void(const ImageSource&)> deliver;
  /// CKPT_NO_SOCKETS: sockets whose other end is outside are captured as if that end were closed.
  bool no_sockets = false;
  /// With `kernel` it is EOPNOTSUPP where the module does not serve.
  EngineChoice engine = EngineChoice::automatic;
  /// CKPT_NO_PGRP_TTYS: terminals outside are captured as hung up.
  bool no_pgrp_ttys = false;
  /// Only find out whether it could be done: what refuses it is thrown, and nothing is stored. The processes are stopped for
  /// as long as it takes to read what they have in the kernel, and not where one of them cannot be. `after` says nothing.
  bool dry_run = false;
  const CancelFlag* cancel = nullptr;
  /// Who is followed from one checkpoint to the next (memory/tracking.h): for them only what was written since is read. The
  /// same object for all checkpoints into a store; null for none.
  TrackingSet* tracking = nullptr;
  /// With `tracking`: follow the processes from this checkpoint on, where that can be and is worth it.
  bool track = false;
  /// With `tracking`: read them in full, and follow them no longer.
  bool full = false;
  /// Name of the only snapshot strategy to take (memory/snapshot.h), for tests and measurements; empty for the best.
  std::string snapshot;
};

struct CheckpointResult {
  std::string name;            ///< of the image; empty where it was delivered, as is the id
  uint64_t image_id = 0;
  uint64_t time_ns = 0;        ///< of the image (ManifestHeader)
  bool incremental = false;    ///< of the root only what was written since its last image was read
  bool by_module = false;      ///< the kernel module took part: engine "kernel" of the manifest, else "ptrace"
  size_t processes = 0;        ///< that were stopped
  uint64_t stop_ns = 0;        ///< from the first process's stop until all went on
  uint64_t total_ns = 0;       ///< until durable
  uint64_t logical_bytes = 0;
};

/// Checkpoints process `pid` and its descendants, with all their threads and as of one instant, into `store` and returns
/// when the image is durable. On any error they run on as if nothing had happened and nothing is stored. Throws Error:
/// ESRCH, EPERM (caller's rights), EBUSY (traced, or in vfork(2)), EOPNOTSUPP (something cannot be checkpointed), EINVAL (a kernel thread,
/// this process), EINTR (cancelled), ENOSPC, EIO. Of refusals, EPERM, EBUSY and EOPNOTSUPP, all are in the sentence, and the
/// errno is that of the first (base/refusals.h). Thread-safe; blocks. A thread of its own does the tracing, so any
/// thread may call.
CheckpointResult checkpoint(Store& store, pid_t pid, const Caller& caller, const CheckpointOptions& options);

/// True while a checkpoint of the thread group, or of an ancestor, is between its first and last touch of the process. The FUSE layer
/// asks it when a blocked writer of ctl is interrupted: by us, or by a signal.
bool being_captured(pid_t tgid);

struct ResumeOptions {
  /// The resumed root process becomes a child of the calling thread's process (`ckpt restore -f`); otherwise it is
  /// handed to init.
  bool as_child = false;
  /// Descriptors that the resumed process takes from the caller: fd number in the image -> descriptor here
  /// (a terminal, `ckpt restore -f`).
  std::vector<std::pair<int, int>> inherit;
  bool stopped = false;        ///< leave all of it stopped with SIGSTOP
  const CancelFlag* cancel = nullptr;
};

struct ResumeResult {
  pid_t pid = 0;
  uint64_t total_ns = 0;
  /// What is not as it was, though it runs: the first control group that could not be had. Empty for nothing.
  std::string note;
  std::string with_note(std::string sentence) const { return note.empty() ? sentence : sentence + "; " + note; }
};

/// Verifies `image` (verify_image without contents is the caller's business where it comes from outside) and resumes
/// it under its old pids and tids. All or nothing: on an error no process is left. Throws Error: EEXIST (a pid in use),
/// EPERM (credentials the caller does not have), EINVAL (damaged or hostile image), ENOENT/ESTALE (a file is gone or
/// has changed), EOPNOTSUPP, ENOEXEC (another architecture, missing XSAVE features). Thread-safe; blocks.
ResumeResult resume(const ImageSource& image, const Caller& caller, const ResumeOptions& options);

/// Deletes a stored image. What its checkpoint has left in the system for the resume (the rule that drops what the peers of
/// ended TCP connections send) goes with the last copy in the store. Whether the caller may is not asked. Throws Error as
/// Store::delete_image() does. Thread-safe.
void delete_image(Store& store, const std::string& name, uint64_t id = 0);

}  // namespace ckpt
