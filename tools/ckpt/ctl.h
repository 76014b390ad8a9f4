// Commands through the mount's ctl file.
#pragma once

#include <string>

namespace ckpt::tool {

/// Writes one command to `mount`/ctl, waits for its end (a line with the time shows on a terminal meanwhile)
/// and returns the line that ctl gives for it. Throws Error with the errno of the write and the sentence read
/// from ctl.
std::string run_ctl(const std::string& mount, const std::string& command);

}  // namespace ckpt::tool
