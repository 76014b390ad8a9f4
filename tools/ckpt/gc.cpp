// ckpt gc: free the pages that no image refers to.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "tools/ckpt/commands.h"
#include "tools/ckpt/ctl.h"
#include "tools/ckpt/progress.h"

namespace ckpt::tool {

namespace {

int gc(Session& session, bool dry_run) {
  if (!session.on_store()) {
    const std::string outcome = run_ctl(session.mount(), dry_run ? "gc dry-run" : "gc now");
    session.json ? fmt::print("{}\n", nlohmann::json{{"outcome", outcome}}.dump(2))
                 : fmt::print("{}\n", outcome);
    return kOk;
  }
  ProgressLine progress("gc");
  const GcResult r = session.store()->collect_garbage(dry_run, progress.callback());
  if (session.json) {
    fmt::print("{}\n", nlohmann::json{{"dry_run", dry_run},
                                      {"packs_deleted", r.packs_deleted},
                                      {"packs_rewritten", r.packs_rewritten},
                                      {"pages_freed", r.pages_freed}}
                           .dump(2));
  } else {
    fmt::print("{} {} ({} pages): {} packs deleted, {} rewritten\n", dry_run ? "would free" : "freed",
               human_bytes(r.pages_freed * kPageSize), r.pages_freed, r.packs_deleted, r.packs_rewritten);
  }
  return kOk;
}

}  // namespace

void add_gc(CLI::App& app, Choice& choice) {
  auto* command = app.add_subcommand("gc", "Free the pages that no image refers to");
  auto dry_run = std::make_shared<bool>(false);
  command->add_flag("-n,--dry-run", *dry_run, "Only count what would be freed");
  command->callback([dry_run, &choice] { choice.run = [dry_run](Session& s) { return gc(s, *dry_run); }; });
}

}  // namespace ckpt::tool
