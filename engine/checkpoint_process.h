// The capture of one process of a checkpoint: everything about it that has nothing to do with the others.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/kinds/family.h"
#include "engine/kinds/kind.h"
#include "engine/kinds/quiet_end.h"
#include "engine/memory/snapshot.h"
#include "engine/memory_table.h"
#include "engine/process/cpu_watch.h"
#include "engine/process/procfs.h"
#include "engine/process/stop.h"
#include "engine/process/told_remote.h"

namespace ckpt {

/// What the processes of one checkpoint have in common. Outlives them.
struct SharedCapture {
  Store& store;
  const Caller& caller;
  const CheckpointOptions& options;
  pid_t root = 0;
  std::unique_ptr<ImageBuilder> image;
  std::map<std::string, std::string> objects;      ///< see CaptureContext
  std::vector<std::function<void()>> later;
  uint64_t later_bytes = 0;
  TreeDescriptors descriptors;
  std::shared_ptr<const QueuedDescriptors> queued; ///< see CaptureContext
  UniqueFd module;                                 ///< /dev/ckpt, or none
  std::unique_ptr<QuietEnd> quiet_end;             ///< of processes that end afterwards, else null
  std::map<pid_t, std::vector<uint64_t>> exit_words; ///< see Snapshot::spare; by owner of the memory
  std::set<pid_t> common_memory;                   ///< processes whose memory others have too
  Refusals refusals;                               ///< of all processes; raised when all have been looked at

  /// Throws Error(EINTR).
  void check_cancel() const;
};

/// The steps in their order, all in one thread, which traces. Each throws Error; the destructor leaves the process as it
/// was.
class ProcessCapture {
 public:
  /// Throws Error(ESRCH).
  ProcessCapture(SharedCapture& shared, pid_t pid);
  ProcessCapture(const ProcessCapture&) = delete;
  ProcessCapture& operator=(const ProcessCapture&) = delete;

  pid_t pid() const { return pid_; }
  int proc_dir() const { return proc_dir_.get(); }
  int pid_fd() const { return pid_fd_.get(); }
  /// It is a zombie, or has gone.
  bool ended() const;
  /// The same of one that is about to: it has given its memory back, and is waited for, a second at the longest.
  bool ends() const;
  const ProcStatus& status() const { return status_; }

  /// Permission, refusals, mappings, descriptors: all that may be known before anything is done to the process, or of one
  /// that was born in the stop. What refuses the checkpoint is noted in SharedCapture::refusals. The descriptors are refused
  /// by refuse_files(), when those of all processes are known.
  void look();
  bool looked_at() const { return looked_at_; }
  /// In the stop: what look() refuses of the process itself.
  void refuse_again();
  /// What others own of it. Its descriptors are then theirs, and its memory is captured with theirs.
  void share(const Sharing& sharing);
  /// Whether look() has found nothing that forbids to stop it and to make calls in it.
  bool can_be_stopped() const { return can_be_stopped_; }
  std::vector<OpenFd>& files() { return files_; }
  void refuse_files();

  /// Decides how memory of its own is fixed, and does of it what takes long. `without` as in SnapshotTarget.
  void prepare_snapshot(std::string_view without);
  /// Whether there is memory of its own that prepare_snapshot() has not been called for.
  bool lacks_snapshot() const { return sharing_.memory == 0 && snapshot_ == nullptr; }

  /// The stop, in three parts, so that all processes stop at once: traced, asked, still. The last gives ESRCH for one that
  /// has ended.
  void seize();
  void interrupt();
  void wait_stop();
  bool stopped() const { return process_ != nullptr; }
  StoppedProcess& process() { return *process_; }

  /// In the stop: what the process has in the kernel. read_files() of all processes comes first.
  void read_files();
  /// For the kinds; SharedCapture::descriptors are there by then.
  CaptureContext context();
  void capture(const Relations& relations);
  /// The instant of its memory.
  void fix_snapshot();
  /// True where the pages must be read in the stop.
  bool needs_stop() const { return snapshot_ != nullptr && snapshot_->needs_stop(); }
  /// Whether the kernel module has taken part.
  bool by_module() const { return told_by_module_ || (snapshot_ != nullptr && snapshot_->by_module()); }
  void read_pages();
  void resume();
  /// What can wait until it runs again, after the work of SharedCapture::later.
  void capture_memory_map();
  /// Nothing of ours is left in it.
  void release_snapshot() noexcept;
  /// Whether its last image was built upon.
  bool incremental() const { return snapshot_ && std::string_view(snapshot_->name()) == "tracked"; }
  /// When the image is durable: what the next one may build upon, where the process is followed.
  void follow(const std::shared_ptr<const ImageSource>& image) noexcept;

  /// Owner of the image as far as this process goes, of which it was taken in the stop: root for one with rights beyond
  /// those of a user.
  uid_t owner_uid() const { return owner_uid_; }
  gid_t owner_gid() const { return owner_gid_; }
  const std::string& prefix() const { return prefix_; }

 private:
  void ask_module();
  std::vector<Remote*> remotes() const;
  bool goes_on_with_memory() const;
  void capture_proc_files(const std::string& status);
  pid_t memory_owner() const { return sharing_.memory != 0 ? sharing_.memory : pid_; }
  void note_owner(const ProcStatus& status);

  SharedCapture& shared_;
  const pid_t pid_;
  const std::string prefix_;
  UniqueFd proc_dir_;
  UniqueFd pid_fd_;
  const CpuWatch cpus_;
  ProcStatus status_;            // before the stop
  bool looked_at_ = false;
  bool can_be_stopped_ = false;
  uid_t owner_uid_ = 0;
  gid_t owner_gid_ = 0;
  MemoryTable memory_;
  std::vector<OpenFd> files_;
  Sharing sharing_;
  std::shared_ptr<MemoryTracking> tracking_;   // null where it is not to be followed
  std::unique_ptr<Snapshot> snapshot_;   // none where another process owns the memory
  std::unique_ptr<StoppedProcess> process_;
  std::vector<std::unique_ptr<ToldRemote>> told_;   // its threads, where the module tells of them
  bool told_by_module_ = false;
};

}  // namespace ckpt
