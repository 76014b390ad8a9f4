#include "ckptfs/commands.h"

#include "engine/engine.h"

namespace ckpt {

namespace {

double milliseconds(uint64_t ns) { return static_cast<double>(ns) / 1e6; }

}  // namespace

void Commands::run(const Command& command, const Caller& caller, const LogKey& key, const CancelFlag* cancel) {
  try {
    log_.add(key, std::visit([&](const auto& c) { return run(c, caller, cancel); }, command));
  } catch (const Error& error) {
    log_.add(key, error.sentence());
    throw;
  } catch (const std::exception& error) {
    log_.add(key, fmt::format("ckptfs: {}", error.what()));
    throw;
  }
}

std::string Commands::run(const CheckpointCommand& command, const Caller& caller, const CancelFlag* cancel) {
  CheckpointOptions options;
  options.after = command.after;
  options.name = command.name;
  options.cancel = cancel;
  try {
    const CheckpointResult result = checkpoint(catalog_.store(), command.pid, caller, options);
    catalog_.changed();
    ++counters_.checkpoints;
    return fmt::format("{}: checkpointed as {} in {:.1f} ms (stopped {:.1f} ms)", command.pid, result.name,
                       milliseconds(result.total_ns), milliseconds(result.stop_ns));
  } catch (...) {
    ++counters_.failed_checkpoints;
    throw;
  }
}

std::string Commands::run(const RestoreCommand& command, const Caller& caller, const CancelFlag* cancel) {
  const auto tree = catalog_.open(command.name);
  catalog_.check_may_read(*tree, command.name, caller.uid);
  ResumeOptions options;
  options.stopped = command.stopped;
  options.cancel = cancel;
  try {
    const ResumeResult result = resume(tree->image(), caller, options);
    ++counters_.resumes;
    return fmt::format("restore {}: resumed as pid {} in {:.1f} ms", command.name, result.pid,
                       milliseconds(result.total_ns));
  } catch (...) {
    ++counters_.failed_resumes;
    throw;
  }
}

std::string Commands::run(const DeleteCommand& command, const Caller& caller, const CancelFlag*) {
  catalog_.remove(command.name, caller.uid);
  return fmt::format("delete {}: deleted", command.name);
}

}  // namespace ckpt
