// ckpt save: checkpoint processes through ctl.
#include <nlohmann/json.hpp>

#include <cstdio>
#include <limits>
#include <string>

#include "engine/base/error.h"
#include "engine/base/record.h"
#include "tools/ckpt/commands.h"
#include "tools/ckpt/ctl.h"

namespace ckpt::tool {

namespace {

struct SaveOptions {
  std::vector<int> pids;
  std::string name;
  bool exit = false;
  bool stop = false;
  bool no_sockets = false;
  std::string every, keep, until;  ///< of a series
  bool dry_run = false;
  std::vector<std::string> words;  ///< further options of ctl, as they are
};

std::string command_for(const SaveOptions& options, int pid) {
  std::string line = (options.dry_run ? "check " : "") + std::to_string(pid);
  if (options.exit) line += " exit";
  if (options.stop) line += " stop";
  if (options.no_sockets) line += " no_sockets";
  if (!options.every.empty()) line += " every=" + options.every;
  if (!options.keep.empty()) line += " keep=" + options.keep;
  if (!options.until.empty()) line += " until=" + options.until;
  if (!options.name.empty()) line += " name=" + options.name;
  for (const std::string& word : options.words) line += " " + word;
  return line;
}

/// The sentence of a failed checkpoint has all refusals in it, each of which begins with a pid: "1: no; 2: no".
std::vector<std::string> split_refusals(std::string_view sentence) {
  std::vector<std::string> refusals;
  size_t begin = 0;
  for (size_t at = 0; (at = sentence.find("; ", at)) != std::string_view::npos; at += 2) {
    const size_t pid = at + 2, end = sentence.find_first_not_of("0123456789", pid);
    if (end == std::string_view::npos || end == pid || sentence.substr(end, 2) != ": ") continue;
    refusals.emplace_back(sentence.substr(begin, at - begin));
    begin = pid;
  }
  refusals.emplace_back(sentence.substr(begin));
  return refusals;
}

int save(Session& session, const SaveOptions& options) {
  if (session.on_store()) fail(EINVAL, "save needs a mounted ckptfs, not --store");
  if (!options.name.empty() && options.pids.size() > 1)
    fail(EINVAL, "--name labels one image, and there are several pids");
  int code = kOk;
  auto results = nlohmann::json::array();
  for (const int pid : options.pids) {
    nlohmann::json result{{"pid", pid}};
    try {
      const std::string outcome = run_ctl(session.mount(), command_for(options, pid));
      if (!options.dry_run) result["name"] = options.name.empty() ? std::to_string(pid) : options.name;
      result["outcome"] = outcome;
      if (!session.json) std::printf("%s\n", outcome.c_str());
    } catch (const Error& e) {
      code = kFailed;
      result["error"] = e.sentence();
      result["errno"] = e.err();
      const std::vector<std::string> refusals = split_refusals(e.sentence());
      result["refusals"] = refusals;
      for (const std::string& refusal : refusals) {
        if (!session.json) std::fprintf(stderr, "ckpt: %s\n", refusal.c_str());
      }
    }
    results.push_back(std::move(result));
  }
  if (session.json) std::printf("%s\n", results.dump(2).c_str());
  return code;
}

}  // namespace

void add_save(CLI::App& app, Choice& choice) {
  auto* command = app.add_subcommand("save", "Checkpoint processes; they go on running");
  auto options = std::make_shared<SaveOptions>();
  command->add_option("PID", options->pids, "Processes to checkpoint, each into an image of its own")
      ->required()
      ->check(CLI::Validator(
          [](std::string& word) {
            const auto pid = parse_u64(word);
            const bool good = pid && *pid > 0 && *pid <= std::numeric_limits<pid_t>::max();
            return good ? std::string() : "'" + word + "' is not a pid";
          },
          ""));
  command->add_option("-n,--name", options->name, "Label of the image (default: the pid)")->type_name("NAME");
  auto* exit = command->add_flag("--exit", options->exit, "End the process when the image is durable");
  command->add_flag("--stop", options->stop, "Leave the process stopped")->excludes(exit);
  command->add_flag("--no-sockets", options->no_sockets,
                    "Sockets that lead out of the process are closed in the image, instead of refusing it");
  auto* every = command->add_option("--every", options->every,
                                    "Begin a series: a checkpoint every so often (500ms, 1s, 5m, 1h, 1d); never ends it")
                    ->type_name("TIME");
  command->add_option("--keep", options->keep, "Images of the series that stay: the last 10, one a minute: 10,60m,24h,7d")
      ->type_name("RULE")
      ->needs(every);
  command->add_option("--until", options->until, "End of the series: after so many images, or so much time")
      ->type_name("COUNT|TIME")
      ->needs(every);
  command->add_flag("-d,--dry-run", options->dry_run, "Only tell what cannot be checkpointed, all of it; nothing is stored");
  command->add_option("-o,--option", options->words, "A further word for ctl, see ckpt-ctl(5)")
      ->type_name("WORD")
      ->allow_extra_args(false);
  command->callback([options, &choice] { choice.run = [options](Session& s) { return save(s, *options); }; });
}

}  // namespace ckpt::tool
