// ckpt: what files cannot say about checkpoints. See ckpt(1).
#include <cstdio>

#include "engine/base/error.h"
#include "tools/ckpt/commands.h"
#include "tools/ckpt/log.h"

namespace {

int run_choice(const ckpt::tool::Choice& choice, ckpt::tool::Session& session) {
  try {
    return choice.run(session);
  } catch (const ckpt::Error& e) {
    std::fprintf(stderr, "ckpt: %s\n", e.sentence().c_str());
  } catch (const std::exception& e) {
    std::fprintf(stderr, "ckpt: %s\n", e.what());
  }
  return choice.trouble;
}

/// What was wrong with the arguments, for a person: CLI11 says of an unknown command only that one is required.
int explain(const CLI::App& app, const CLI::ParseError& error) {
  const std::vector<std::string> unknown = app.remaining();
  if (dynamic_cast<const CLI::RequiredError*>(&error) == nullptr || !app.get_subcommands().empty() || unknown.empty())
    return app.exit(error);
  std::string commands;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; }))
    commands += " " + command->get_name();
  std::fprintf(stderr, "ckpt: there is no command '%s'; these are there:%s\n", unknown.front().c_str(), commands.c_str());
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace ckpt::tool;
  Session session;
  Choice choice;
  CLI::App app("Checkpoints of running programs: save, look at, compare, check and resume them", "ckpt");
  app.set_version_flag("--version", "ckpt " CKPT_VERSION);
  app.add_option("--mount", session.mount_option,
                 "Mount point of ckptfs (default: $CKPT_MOUNT, else the one that is mounted, else /ckpt)")
      ->type_name("DIR");
  app.add_option("--store", session.store_option, "Work on this store while it is not mounted")
      ->type_name("DIR");
  app.add_flag("--json", session.json, "Print the result as JSON");
  app.require_subcommand(1);
  app.fallthrough();
  for (const auto add :
       {add_save, add_restore, add_ls, add_log, add_rm, add_diff, add_seal, add_check, add_gc, add_stats}) {
    add(app, choice);
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return explain(app, e) == 0 ? kOk : kUsage;
  }
  return run_choice(choice, session);
}
