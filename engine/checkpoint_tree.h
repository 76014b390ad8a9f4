// The capture of a process and all its descendants as of one instant.
//
// Stopping: whoever is known is seized while all run. Then the stop goes down from the root, one generation after the
// other: each is asked to stop all at once and waited for, and only then its children are listed, which is certain then:
// who stands still has no more of them. A parent in vfork(2), whom nobody can stop, so comes to its stop when its child
// goes on to another program. A child that was born since the look is looked at in the stop. In the end the lists are read
// again, for orphans that came to a subreaper meanwhile.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "engine/base/error.h"
#include "engine/checkpoint_process.h"
#include "engine/checkpoint_turn.h"
#include "engine/naming_process.h"

namespace ckpt {

/// What earlier attempts at the same checkpoint have taught.
struct CaptureLessons {
  /// Strategies that have failed (SnapshotTarget::without), by process.
  std::map<pid_t, std::string> without;
  /// Descendants that end, or become other programs, before they are read: read them all in the stop.
  bool read_in_stop = false;
  /// Attempts that an execve(2), or the end of a descendant, has spoilt.
  int spoilt = 0;
  /// A process to wait for: another checkpoint had it in the stop of the last attempt. 0 for none.
  pid_t busy = 0;
};

/// One attempt. All in one thread, which should end soon after a failure: what could not be let go goes on then.
class TreeCapture {
 public:
  /// `turns` has the root already.
  TreeCapture(Store& store, pid_t root, const Caller& caller, const CheckpointOptions& options, CaptureTurns& turns,
              CaptureLessons& lessons);
  TreeCapture(const TreeCapture&) = delete;
  TreeCapture& operator=(const TreeCapture&) = delete;

  /// Throws Error as checkpoint() does.
  CheckpointResult run();
  /// Whether another attempt may succeed where run() has failed with `error`; `lessons` then tells how.
  bool worth_another(const std::exception& error);
  bool root_ended() const { return members_.front()->ends(); }

 private:
  using Clock = std::chrono::steady_clock;
  struct Kin {
    Relations relations;
    ProcessCapture* process = nullptr;   // none for a zombie
  };

  // before the stop
  void look();
  bool can_be_stopped() const;
  void find_members();
  void look_at_members();
  void take_sharing(const std::vector<pid_t>& pids, bool run);
  void prepare_snapshots();
  std::string_view strategy_not_for(const ProcessCapture& member) const;
  // the stop
  void stop();
  void seize_all();
  void stop_generation(std::vector<Kin>& generation);
  std::vector<Kin> children_of(std::span<ProcessCapture* const> parents);
  std::optional<Kin> meet(const ChildOf& child, pid_t parent);
  ProcessCapture& member(pid_t pid);
  void drop(const ProcessCapture& member);
  void find_kinship();
  void capture_stopped();
  /// Ends a dry run that has looked: with what only processes that stand still tell, where they may be stopped.
  CheckpointResult check();
  void capture_zombie(const Relations& zombie);
  void capture_ipc();
  void let_go();
  // after it
  void read_pages(bool in_stop);
  void finish();
  CheckpointResult commit();
  void conclude();
  void end_all(bool but_root);

  /// Remembers whose snapshot is lost.
  template <typename F>
  void with_snapshot(ProcessCapture& member, F&& work) {
    at_work_ = member.pid();
    naming_process(at_work_, [&] { work(member); });
    at_work_ = 0;
  }
  /// Runs `work` for each member; one that has ended meanwhile, but the root, is left out from here on.
  template <typename F>
  void for_each_alive(F&& work) {
    for (size_t i = 0; i < members_.size();) {
      ProcessCapture& member = *members_[i];
      try {
        naming_process(member.pid(), [&] { work(member); });
      } catch (const Error&) {
        if (i == 0 || !member.ends()) throw;
        drop(member);
        continue;
      }
      ++i;
    }
  }
  static std::vector<pid_t> pids_of(const auto& processes) {
    std::vector<pid_t> pids;
    for (const auto& process : processes) pids.push_back(process->pid());
    return pids;
  }
  void index_descriptors();

  SharedCapture shared_;
  CaptureTurns& turns_;
  CaptureLessons& lessons_;
  std::vector<std::unique_ptr<ProcessCapture>> members_;   // the root first
  std::vector<ProcessCapture*> order_;                     // in the stop: parents before their children
  std::map<pid_t, Relations> family_;                      // in the stop; zombies too
  std::vector<Relations> seen_;                            // before the stop; without zombies
  std::set<pid_t> ended_;                                  // before the stop: zombies
  bool captured_ = false;                                  // all that the stop is for
  bool never_rests_ = false;                               // what its looks refused was never the same twice
  std::map<pid_t, Sharing> sharing_;                       // of those who share
  bool born_in_stop_ = false;                              // some of them
  pid_t at_work_ = 0;                                      // whose snapshot is being worked on
  uint64_t time_ns_ = 0;
  Clock::time_point stopped_at_{};
  uint64_t stop_ns_ = 0;
};

}  // namespace ckpt
