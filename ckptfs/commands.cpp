#include "ckptfs/commands.h"

#include <fmt/ranges.h>
#include <unistd.h>

#include "ckptfs/pid_namespace.h"
#include "ckptfs/replacement.h"
#include "engine/engine.h"
#include "engine/make_room.h"
#include "libckpt/ckpt.h"

namespace ckpt {

namespace {

double milliseconds(uint64_t ns) { return static_cast<double>(ns) / 1e6; }

/// The whole store is the business of root, and of who runs this daemon.
void check_may_keep_store(const Caller& caller, const char* verb) {
  if (caller.uid != 0 && caller.uid != ::geteuid()) {
    fail(EPERM, "{}: only root and the user who mounted this filesystem may do that", verb);
  }
}

/// What ckpt_checkpoint returns.
int flags_of(const CheckpointCommand& command) {
  const int flags = (command.no_sockets ? CKPT_NO_SOCKETS : 0) | (command.no_pgrp_ttys ? CKPT_NO_PGRP_TTYS : 0) |
                    (command.cpu ? CKPT_CPU : 0) | (command.hold_linkcnt ? CKPT_HOLD_LINKCNT : 0);
  switch (command.after) {
    case AfterCapture::exit: return flags | CKPT_EXIT;
    case AfterCapture::stop: return flags | CKPT_STOP;
    case AfterCapture::exit_but_root: return flags | CKPT_EXIT;
    case AfterCapture::go_on: break;
  }
  return flags;
}

Progress until(const CancelFlag* cancel) {
  return [cancel](uint64_t, uint64_t) { return cancel == nullptr || !*cancel; };
}

}  // namespace

void Commands::run(const Command& command, const Caller& caller, const LogKey& key, const CancelFlag* cancel) {
  try {
    log_.add(key, std::visit(
                      [&](const auto& c) {
                        if constexpr (std::is_same_v<decltype(c), const CheckpointCommand&>) {
                          return run(c, caller, key, cancel);
                        } else {
                          return run(c, caller, cancel);
                        }
                      },
                      command));
  } catch (const Error& error) {
    log_.add(key, error.sentence());
    throw;
  } catch (const std::exception& error) {
    log_.add(key, fmt::format("ckptfs: {}", error.what()));
    throw;
  }
}

CheckpointResult Commands::take(const CheckpointCommand& command, const Caller& caller, const CancelFlag* cancel) {
  CheckpointOptions options;
  options.after = command.after;
  options.dry_run = command.dry_run;
  options.name = command.name;
  options.no_sockets = command.no_sockets;
  options.no_pgrp_ttys = command.no_pgrp_ttys;
  options.answer_at = command.answer_at;
  options.memory = !command.cpu;
  options.engine = engine_;
  options.tracking = &tracking_;
  options.full = command.full;
  options.track = !command.dry_run && (command.track || (command.series && !command.full));
  if (command.directory) options.deliver = [&](const ImageSource& image) { command.directory->write(image); };
  options.cancel = cancel;
  const auto answer = [&command](int64_t value) {
    if (command.answer) command.answer->give(value);
  };
  const auto failed = [&](int err) {
    if (!command.dry_run) ++counters_.failed_checkpoints;
    catalog_.changed();  // it may have failed with the image there
    answer(-err);
  };
  try {
    // What is half filled has no image of its own yet.
    lazy_.complete(cancel);
    if (!command.name.empty()) catalog_.check_may_take_name(command.name, caller.uid);
    const CheckpointResult result = checkpoint(catalog_.store(), command.pid, caller, options);
    if (command.dry_run) return result;
    // Before the answer: who has taken his own checkpoint may look at it at once.
    catalog_.changed();
    if (!command.series) catalog_.readers().forget(result.name);
    if (!command.directory) catalog_.forget_name(result.name);
    answer(flags_of(command));
    ++counters_.checkpoints;
    if (result.by_module) ++counters_.kernel_checkpoints;
    if (result.incremental) ++counters_.incremental_checkpoints;
    return result;
  } catch (const Error& error) {
    failed(error.err());
    throw;
  } catch (...) {
    failed(EIO);
    throw;
  }
}

std::string Commands::run(const CheckpointCommand& command, const Caller& caller, const LogKey& key,
                          const CancelFlag* cancel) {
  const CheckpointResult result =
      command.series ? series_.begin(command, caller, key, cancel) : take(command, caller, cancel);
  if (command.dry_run) {
    return fmt::format("check {}: nothing is in the way ({} process{}, stopped {:.1f} ms)", command.pid, result.processes,
                       result.processes == 1 ? "" : "es", milliseconds(result.stop_ns));
  }
  return fmt::format("{}: checkpointed {} {} in {:.1f} ms (stopped {:.1f} ms){}", command.pid,
                     command.directory ? "into" : "as", command.directory ? command.directory->name() : result.name,
                     milliseconds(result.total_ns), milliseconds(result.stop_ns),
                     command.series ? "; a series has begun" : "");
}

std::string Commands::run(const EndSeriesCommand& command, const Caller& caller, const CancelFlag*) {
  if (tracking_.follows_for(command.pid) && !series_.has(command.pid)) {
    check_may_checkpoint(caller, command.pid);
    tracking_.forget(command.pid);
    return fmt::format("{}: its writes are not followed any more", command.pid);
  }
  const uint64_t taken = series_.end(command.pid, caller);
  return fmt::format("{}: the series was ended after {} checkpoint{}", command.pid, taken, taken == 1 ? "" : "s");
}

std::string Commands::run_in_pid_namespace(const RestoreCommand& command, const Caller& caller, const CancelFlag* cancel) {
  if (!caller.privileged() || !caller.other_namespace.empty()) {
    fail(EPERM, "restore {}: only root, with all its rights, may make a pid namespace", command.name);
  }
  const PidNamespaceResult result =
      resume_in_pid_namespace(fmt::format("{}/images/{}", mountpoint_, command.name), mountpoint_, command.stopped, cancel);
  return fmt::format("restore {}: resumed as pid {} of a new pid namespace, here {}{}{}", command.name, result.inside,
                     result.outside, result.note.empty() ? "" : "; ", result.note);
}

std::string Commands::run(const RestoreCommand& command, const Caller& caller, const CancelFlag* cancel) {
  const auto tree = catalog_.open(command.name);
  catalog_.check_may_read(*tree, command.name, caller.uid);
  const ImageUses::Lease lease = catalog_.uses().hold(tree->id(), tree->image().describe());
  ResumeOptions options;
  options.stopped = command.stopped;
  options.cancel = cancel;
  Replacement replacement(catalog_, [this](const auto& c, const Caller& who, const CancelFlag* flag) {
    return take(c, who, flag);
  });
  std::shared_ptr<LazyFill> lazy;
  try {
    if (command.pidns) {
      const std::string outcome = run_in_pid_namespace(command, caller, cancel);
      ++counters_.resumes;
      return outcome;
    }
    if (command.lazy) lazy = lazy_.begin(tree->shared_image());
    const ResumeResult result = command.replace ? replacement.run(tree->image(), caller, options, lazy.get())
                                                : resume(tree->image(), caller, options, {}, lazy.get());
    ++counters_.resumes;
    const std::string& replaced = replacement.replaced();
    return result.with_note(fmt::format("restore {}: resumed as pid {} in {:.1f} ms{}", command.name, result.pid,
                                        milliseconds(result.total_ns),
                                        replaced.empty() ? "" : "; what ran before is in images/" + replaced));
  } catch (...) {
    ++counters_.failed_resumes;
    if (lazy) lazy_.end(lazy);
    throw;
  }
}

std::string Commands::run(const DeleteCommand& command, const Caller& caller, const CancelFlag*) {
  catalog_.remove(command.name, caller.uid);
  catalog_.forget_name(command.name);
  return fmt::format("delete {}: deleted", command.name);
}

std::string Commands::run(const GcCommand& command, const Caller& caller, const CancelFlag* cancel) {
  check_may_keep_store(caller, "gc");
  const GcResult result = catalog_.store().collect_garbage(command.dry_run, until(cancel));
  return fmt::format("gc: {} {} pages in {} packs deleted and {} rewritten",
                     command.dry_run ? "would free" : "freed", result.pages_freed, result.packs_deleted,
                     result.packs_rewritten);
}

std::string Commands::run(const CheckCommand& command, const Caller& caller, const CancelFlag* cancel) {
  check_may_keep_store(caller, "check");
  const auto level = command.full ? Store::CheckLevel::full : Store::CheckLevel::sampled;
  const CheckResult result = catalog_.store().check(level, until(cancel));
  if (!result.damage.empty()) {
    fail(EIO, "check: {} of {} pages and {} files are damaged: {}", result.damage.size(), result.pages_checked,
         result.files_checked, fmt::join(result.damage, "; "));
  }
  return fmt::format("check: {} pages and {} files checked, all good", result.pages_checked, result.files_checked);
}

}  // namespace ckpt
