// One process of an image on its way back: everything about it that has nothing to do with the others.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/kinds/kind.h"
#include "engine/kinds/registers.h"
#include "engine/kinds/sharing.h"
#include "engine/memory/inheritance.h"
#include "engine/process/stub_tree.h"

namespace ckpt {

/// What the processes of one resume have in common. Outlives them.
struct SharedResume {
  SharedResume(const ImageSource& from, const Caller& who, const ResumeOptions& how)
      : image(from), caller(who), options(how), where(from.describe()) {}

  const ImageSource& image;
  const Caller& caller;
  const ResumeOptions& options;
  const std::string where;
  pid_t root = 0;
  std::set<pid_t> pids;                                           ///< of all processes, zombies too
  std::map<std::string, UniqueFd> objects;                        ///< see RestoreContext
  std::map<pid_t, RestoredFds> tables;                            ///< see RestoreContext
  std::vector<std::shared_ptr<void>> kept;                        ///< see RestoreContext
  Traces traces;                                                  ///< see RestoreContext
  std::vector<std::function<void()>> last;                        ///< see RestoreContext

  /// Throws Error(EINTR).
  void check_cancel() const;
};

/// The steps in their order. Each throws Error; nothing is to be undone but the stub.
class ProcessResume {
 public:
  ProcessResume(SharedResume& shared, pid_t pid);
  ProcessResume(const ProcessResume&) = delete;
  ProcessResume& operator=(const ProcessResume&) = delete;

  pid_t pid() const { return ctx_.pid; }
  /// Stopped by job control at the checkpoint.
  bool was_stopped() const { return was_stopped_; }

  /// All of the image that can be known before anything is made or opened.
  void parse();
  /// What others own of it, who come before it: it makes nothing of that. After parse().
  void share(const Sharing& sharing) { sharing_ = sharing; }
  /// Opens and makes everything that comes from outside, with the rights of the calling thread. The root process takes
  /// the descriptors of ResumeOptions::inherit.
  void open_files();
  /// First of all what threads and children inherit, `maker` being the process that this one is a copy of, null for us.
  /// Then the threads beside the main one, stopped. Returns what cannot be had, as restore_cgroups().
  std::string begin(Stub& stub, const ProcessResume* maker) const;
  /// A session of its own, with its controlling terminal. Before those are made who are born into it.
  void lead_session(Stub& stub);
  /// What of the descriptors is made with calls of the process.
  void complete_files(Stub& stub);
  /// What other processes have made of them, when all have.
  void adopt_files();
  /// Descriptors and, empty, the address space.
  void build(Stub& stub, StubTree& tree);
  /// Pages. By several threads: not on one CPU.
  void fill(Stub& stub);
  void finish_memory(Stub& stub) const;
  /// Whether some of its memory comes with being made by `maker` when that has its own.
  bool inherits(const ProcessResume& maker) const;
  /// Made by `maker`, which has its memory already: this process has a copy of it now.
  void is_copy_of(const ProcessResume& maker) { maker_ = &maker; }
  /// Before the others, as a whole, for children to inherit.
  void make_memory(Stub& stub);
  bool has_memory() const { return has_memory_; }
  /// Whose memory it has: its own pid, or that of the process that owns what it shares.
  pid_t memory_owner() const { return owns_memory() ? ctx_.pid : sharing_.memory; }
  uint64_t memory_bytes() const;
  /// What is not to be had before every process has its descriptors: see finish_descriptors().
  void finish_files(Stub& stub) const;
  void restore_state(Stub& stub) const;
  /// Registers. Nothing runs yet.
  void make_ready(Stub& stub) const;

 private:
  struct PlannedThread {
    RestoredRegisters registers;
    uint64_t signal_mask = 0;
  };

  void read_threads();
  void open_root();
  Inheritance inheritance() const;
  void build_memory(Stub& stub);
  void fill_own_memory(Stub& stub);
  void open_channel(Stub& stub, int number, size_t spare);
  void place_descriptors(Stub& stub);
  RestoredFds& fds() const { return shared_.tables.at(ctx_.pid); }
  /// Below which all its descriptors are.
  int descriptors_end() const;
  bool owns_memory() const { return sharing_.memory == 0; }
  bool owns_descriptors() const { return sharing_.descriptors == 0; }

  SharedResume& shared_;
  RestoreContext ctx_;
  std::map<pid_t, PlannedThread> threads_;
  bool was_stopped_ = false;
  Sharing sharing_;
  Record leader_;                        // threads/PID
  Layout layout_;
  std::vector<Segment> segments_;
  const ProcessResume* maker_ = nullptr;   // whose memory this one has begun with, if any
  bool has_memory_ = false;
  UniqueFd root_;
  std::optional<LayoutFiles> files_;     // of memory of its own
};

}  // namespace ckpt
