// Runs the commands of ctl on the engine, with the rights of whoever wrote them, and keeps their outcome.
#pragma once

#include <string>
#include <variant>

#include "ckptfs/catalog.h"
#include "ckptfs/command.h"
#include "ckptfs/command_log.h"
#include "ckptfs/counters.h"
#include "ckptfs/series.h"
#include "engine/memory/lazy_fill.h"
#include "engine/memory/tracking_set.h"

namespace ckpt {

/// Thread-safe; outlives every open ctl.
class Commands {
 public:
  Commands(Catalog& catalog, CommandLog& log, Counters& counters)
      : catalog_(catalog),
        log_(log),
        counters_(counters),
        series_(catalog, log, counters,
                {[this](const auto& command, const auto& caller, const CancelFlag* cancel) {
                   return take(command, caller, cancel);
                 },
                 [this](pid_t pid) { tracking_.forget(pid); }}) {}

  /// Runs one command, blocks, logs the outcome under `key`, and throws its Error where it failed.
  void run(const Command& command, const Caller& caller, const LogKey& key, const CancelFlag* cancel);
  CommandLog& log() { return log_; }
  SeriesSet& series() { return series_; }
  TrackingSet& tracking() { return tracking_; }
  LazySet& lazy() { return lazy_; }
  /// Before the first command.
  void use_engine(EngineChoice engine) { engine_ = engine; }
  void mounted_at(const std::string& mountpoint) { mountpoint_ = mountpoint; }

 private:
  CheckpointResult take(const CheckpointCommand&, const Caller&, const CancelFlag*);
  std::string run(const CheckpointCommand&, const Caller&, const LogKey&, const CancelFlag*);
  std::string run(const EndSeriesCommand&, const Caller&, const CancelFlag*);
  std::string run(const RestoreCommand&, const Caller&, const CancelFlag*);
  /// `restore NAME pidns`.
  std::string run_in_pid_namespace(const RestoreCommand&, const Caller&, const CancelFlag*);
  std::string run(const DeleteCommand&, const Caller&, const CancelFlag*);
  std::string run(const GcCommand&, const Caller&, const CancelFlag*);
  std::string run(const CheckCommand&, const Caller&, const CancelFlag*);

  Catalog& catalog_;
  CommandLog& log_;
  Counters& counters_;
  std::string mountpoint_;
  EngineChoice engine_ = EngineChoice::automatic;
  TrackingSet tracking_;
  LazySet lazy_;
  SeriesSet series_;   ///< last: their threads use the others
};

}  // namespace ckpt
