// ckpt log, beside the other subcommands (commands.h).
#pragma once

#include "tools/ckpt/commands.h"

namespace ckpt::tool {

void add_log(CLI::App& app, Choice& choice);

}  // namespace ckpt::tool
