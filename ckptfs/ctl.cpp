#include "ckptfs/ctl.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <variant>
#include <vector>

#include "engine/base/fd.h"
#include "engine/base/record.h"
#include "engine/process/proc_status.h"

namespace ckpt {

namespace {

/// A line of ctl, parsed or refused.
using Line = std::variant<Command, Error>;

uint64_t next_handle_number() {
  static std::atomic<uint64_t> next{1};
  return next.fetch_add(1, std::memory_order_relaxed);
}

/// Runs every line; throws the first failure when all have run.
void run_lines(Commands& commands, const std::vector<Line>& lines, const Caller& caller, const LogKey& key,
               const CancelFlag* cancel) {
  std::optional<Error> first;
  for (const Line& line : lines) {
    try {
      if (const auto* refused = std::get_if<Error>(&line)) {
        commands.log().add(key, refused->sentence());
        throw Error(*refused);
      }
      commands.run(std::get<Command>(line), caller, key, cancel);
    } catch (const Error& error) {
      if (!first) first = error;
    }
    if (cancel != nullptr && *cancel) break;
  }
  if (first) throw Error(*first);
}

/// A process that checkpoints itself or its shell cannot wait for the answer: whoever waits for an answer of this
/// filesystem cannot be stopped.
bool stops_writer(const Line& line, pid_t writer) {
  const auto* command = std::get_if<Command>(&line);
  if (command == nullptr || writer == 0) return false;
  const auto* checkpoint = std::get_if<CheckpointCommand>(command);
  return checkpoint != nullptr && is_same_or_ancestor(checkpoint->pid, writer);
}

/// Pid namespaces in which the thread has an id, from that of /proc down to its own; 0 where it is unknown here.
size_t pid_namespaces(pid_t tid) {
  try {
    return split_words(status_field(read_file(fmt::format("/proc/{}/status", tid)), "NSpid")).size();
  } catch (const Error&) {
    return 0;
  }
}

/// Whether a pid that it names is ours: whoever has an id for us lives in our pid namespace or in one below it.
bool names_our_pids(const Request& request) {
  static const size_t ours = pid_namespaces(::getpid());
  return request.tid != 0 && pid_namespaces(request.tid) == ours;
}

class CtlHandle : public Handle {
 public:
  CtlHandle(Commands& commands, const Request& opener)
      : commands_(commands), opener_(opener.caller()), opener_names_our_pids_(names_our_pids(opener)) {}

  bool direct_io() const override { return true; }

  void read(const Request& request, uint64_t offset, size_t size, const Answer& answer) override {
    std::string part;
    {
      const std::lock_guard lock(mutex_);
      // The text of one reading stays as it was at its start: a line that comes meanwhile shifts nothing. A reading
      // starts at the start of the file, or where this file's last write ended (`exec 3<>ctl; echo 1 >&3; cat <&3`).
      if (!text_ || offset == 0) {
        text_ = commands_.log().read(LogKey::of(request, number_));
        start_ = offset == write_end_ ? offset : 0;
      }
      offset -= std::min(offset, start_);
      part = *text_;
    }
    answer(slice(part, offset, size));
  }

  Work write(const Request& request, uint64_t offset, std::span<const std::byte> data) override {
    const LogKey key = LogKey::of(request, number_);
    std::vector<Line> before;
    std::vector<Line> after;
    Caller caller = request.caller();
    try {
      // Whoever opened it may have lent it to a program with more rights (a set-uid program's messages go to its
      // stderr), and did not get them by that.
      caller.limit_to(opener_);
      const pid_t writer = caller.pid;
      const bool our_pids = opener_names_our_pids_ && names_our_pids(request);
      const std::string_view text(reinterpret_cast<const char*>(data.data()), data.size());
      for (const std::string_view line : split_commands(text)) {
        Line parsed = parse(line, caller, our_pids);
        (stops_writer(parsed, writer) ? after : before).push_back(std::move(parsed));
      }
    } catch (const Error& error) {
      commands_.log().add(key, error.sentence());
      throw;
    }
    {
      const std::lock_guard lock(mutex_);
      text_.reset();
      write_end_ = offset + data.size();
    }
    return work(std::move(before), std::move(after), caller, key);
  }

 private:
  static Line parse(std::string_view line, const Caller& caller, bool our_pids) {
    try {
      Command command = parse_command(line);
      const auto* end_series = std::get_if<EndSeriesCommand>(&command);
      auto* checkpoint = std::get_if<CheckpointCommand>(&command);
      if (!our_pids && (checkpoint != nullptr || end_series != nullptr)) {
        fail(EOPNOTSUPP, "{}: a pid of another pid namespace than that of ckptfs, where it is another process",
             checkpoint != nullptr ? checkpoint->pid : end_series->pid);
      }
      if (checkpoint != nullptr && checkpoint->answer_at != 0) {
        // Only into the writer's own memory. Whether it can be answered must be known before it starts to wait.
        if (checkpoint->pid != caller.pid) fail(EINVAL, "{}: answer= is for the process itself", checkpoint->pid);
        checkpoint->answer = std::make_shared<AnswerSlot>(caller, checkpoint->pid, checkpoint->answer_at);
        if (checkpoint->into >= 0) {
          checkpoint->directory = std::make_shared<ImageDirectory>(caller, checkpoint->pid, checkpoint->into);
        }
      }
      return command;
    } catch (const Error& error) {
      return error;
    }
  }

  Work work(std::vector<Line> before, std::vector<Line> after, const Caller& caller, const LogKey& key) {
    Work result;
    if (!before.empty()) {
      result.before_reply = [&commands = commands_, before = std::move(before), caller,
                             key](const CancelFlag& cancel) {
        run_lines(commands, before, caller, key, &cancel);
      };
    }
    if (!after.empty()) {
      result.after_reply = [&commands = commands_, after = std::move(after), caller, key] {
        try {
          run_lines(commands, after, caller, key, nullptr);
        } catch (const std::exception&) {
          // Nobody waits for it: its sentence is in the log.
        }
      };
    }
    return result;
  }

  Commands& commands_;
  const Caller opener_;
  const bool opener_names_our_pids_;
  const uint64_t number_ = next_handle_number();
  std::mutex mutex_;   ///< guards all below
  std::optional<std::string> text_;
  uint64_t start_ = 0;       ///< file offset of text_
  uint64_t write_end_ = 0;
};

}  // namespace

struct stat CtlNode::ctl_stat() { return make_stat(S_IFREG | 0666, ::geteuid(), ::getegid(), 0, 1, now()); }

void CtlNode::set_attributes(const Request&, const struct stat&, const AttributeChanges& changes) {
  if (changes.mode || changes.uid || changes.gid) fail(EPERM, "ctl: its owner and mode are fixed");
}

HandlePtr CtlNode::open(const Request& request, int) {
  return std::make_shared<CtlHandle>(commands_, request);
}

}  // namespace ckpt
