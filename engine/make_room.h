// Resuming an image while somebody else still has its pids.
#pragma once

#include <functional>
#include <span>

#include "engine/engine.h"

namespace ckpt {

/// Given the pids of an image, whoever has them may be ended. What it throws is the resume's failure.
using MakeRoom = std::function<void(std::span<const pid_t>)>;

/// As resume(image, caller, options). `make_room` is called when all has been read, checked and opened that can be while the
/// pids of the image are in use, and nothing has been started.
ResumeResult resume(const ImageSource& image, const Caller& caller, const ResumeOptions& options,
                    const MakeRoom& make_room);

}  // namespace ckpt
