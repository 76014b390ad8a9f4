// The series of checkpoints that run: one thread each, until the process ends, the rule says so, or somebody ends it.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "ckptfs/catalog.h"
#include "ckptfs/command.h"
#include "ckptfs/command_log.h"
#include "ckptfs/counters.h"
#include "engine/base/fd.h"

namespace ckpt {

/// One running series. Its thread is the only one that takes its checkpoints.
class Series {
 public:
  struct Hooks {
    /// Takes a checkpoint.
    std::function<CheckpointResult(const CheckpointCommand&, const Caller&, const CancelFlag*)> take;
    /// The series of the process is over, whether there was a first image or not. Must not throw.
    std::function<void(pid_t)> ended;
  };

  /// Throws Error(ESRCH). Nothing runs before start().
  Series(Catalog& catalog, CommandLog& log, Counters& counters, Hooks hooks, CheckpointCommand command, Caller caller,
         LogKey key);
  /// Ends it, and waits for the checkpoint under way.
  ~Series();
  Series(const Series&) = delete;
  Series& operator=(const Series&) = delete;

  /// With the first image, which is there already.
  void start(const CheckpointResult& first);
  /// Thread-safe: no checkpoint begins any more, and the one under way is cancelled.
  void end() noexcept;
  /// The same, and waits for it. Returns the number of checkpoints taken.
  uint64_t end_and_wait();

  bool over() const { return over_; }
  uint64_t taken() const { return taken_; }
  uid_t owner() const { return caller_.uid; }

 private:
  using Clock = std::chrono::steady_clock;
  struct Image {
    uint64_t id;
    uint64_t time_ns;
    std::string name;   // NAME@K, once it is known to have that; it keeps it but for a rename by hand
  };

  void run() noexcept;
  /// False where the series is to end instead.
  bool wait_until(Clock::time_point due) const;
  bool process_ended() const;
  bool rule_fulfilled() const;
  /// False where there is nothing left to be checkpointed.
  bool take_one();
  void note(const CheckpointResult& result);
  void thin_out();
  /// Returns the image that has the name itself, without @K.
  std::optional<uint64_t> learn_names();
  /// False where somebody reads it just now.
  bool remove(const Image& image);
  std::string base_name() const { return command_.name.empty() ? std::to_string(command_.pid) : command_.name; }

  Catalog& catalog_;
  CommandLog& log_;
  Counters& counters_;
  const Hooks hooks_;
  const CheckpointCommand command_;
  const SeriesRule rule_;
  const Caller caller_;
  const LogKey key_;
  ImageReaders::Lease names_move_on_;   // until the last checkpoint was taken
  UniqueFd pid_fd_;
  UniqueFd wake_;                  // an eventfd, readable when the series is to end
  CancelFlag cancel_{false};
  std::atomic<bool> over_ = false;
  std::atomic<uint64_t> taken_ = 0;
  Clock::time_point began_;
  std::vector<Image> images_;      // as they were taken; those that keep= thins out
  std::string last_failure_;
  std::thread thread_;
};

/// Thread-safe.
class SeriesSet {
 public:
  SeriesSet(Catalog& catalog, CommandLog& log, Counters& counters, Series::Hooks hooks)
      : catalog_(catalog), log_(log), counters_(counters), hooks_(std::move(hooks)) {}

  /// Takes the first checkpoint in the calling thread, whose failure is that of the command, and goes on in a thread of
  /// its own. Throws Error(EBUSY) where the process has a series already, and what a checkpoint throws.
  CheckpointResult begin(const CheckpointCommand& command, const Caller& caller, const LogKey& key,
                         const CancelFlag* cancel);
  /// For who began it, and root. Throws Error(ENOENT, EPERM). Returns the number of images that it has taken.
  uint64_t end(pid_t pid, const Caller& caller);
  bool has(pid_t pid);
  /// Of all, now and from now on: the mount ends.
  void end_all();
  /// For stats: the processes, with the number of checkpoints taken.
  std::vector<std::pair<pid_t, uint64_t>> running();

 private:
  void forget_ended();

  Catalog& catalog_;
  CommandLog& log_;
  Counters& counters_;
  const Series::Hooks hooks_;
  std::mutex mutex_;   ///< guards what follows; the log's and the store's locks come after it
  std::map<pid_t, std::shared_ptr<Series>> series_;
  bool ending_ = false;
};

}  // namespace ckpt
