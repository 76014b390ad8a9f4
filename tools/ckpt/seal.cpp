// ckpt seal: fit the manifest of an edited copy to its files.
#include "tools/ckpt/commands.h"

namespace ckpt::tool {

void add_seal(CLI::App& app, Choice& choice) {
  auto* command = app.add_subcommand("seal", "Fit the manifest of an edited copy of an image to its files");
  auto dirs = std::make_shared<std::vector<std::string>>();
  command->add_option("DIR", *dirs, "Directories that hold an image each")->required();
  command->callback([dirs, &choice] {
    choice.run = [dirs](Session&) {
      for (const std::string& dir : *dirs) seal_directory(dir);
      return kOk;
    };
  });
}

}  // namespace ckpt::tool
