// ckpt rm: delete images. Their pages are freed by gc.
#include <cstdio>

#include "engine/base/error.h"
#include "engine/engine.h"
#include "tools/ckpt/commands.h"
#include "tools/ckpt/ctl.h"

namespace ckpt::tool {

namespace {

int rm(Session& session, const std::vector<std::string>& names) {
  int code = kOk;
  for (const std::string& name : names) {
    try {
      if (!valid_image_name(name)) fail(EINVAL, "'{}' is not a name that an image can have", name);
      session.on_store() ? delete_image(*session.store(), name)
                         : (void)run_ctl(session.mount(), "delete " + name);
    } catch (const Error& e) {
      code = kFailed;
      std::fprintf(stderr, "ckpt: %s\n", e.sentence().c_str());
    }
  }
  return code;
}

}  // namespace

void add_rm(CLI::App& app, Choice& choice) {
  auto* command = app.add_subcommand("rm", "Delete images");
  auto names = std::make_shared<std::vector<std::string>>();
  command->add_option("NAME", *names, "Images to delete")->required();
  command->callback([names, &choice] { choice.run = [names](Session& s) { return rm(s, *names); }; });
}

}  // namespace ckpt::tool
