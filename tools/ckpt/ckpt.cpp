// ckpt: what files cannot say about checkpoints. See ckpt(1).
#include <cstdio>

#include "engine/base/error.h"
#include "tools/ckpt/commands.h"

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
       {add_save, add_restore, add_ls, add_rm, add_diff, add_seal, add_check, add_gc, add_stats}) {
    add(app, choice);
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? kOk : kUsage;
  }
  return run_choice(choice, session);
}
