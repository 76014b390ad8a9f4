// Resuming an image in place of the processes that still have its pids.
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

/// Takes away what the checkpoint of an image has left in the system for its resume, where another image was resumed in its
/// place: the rule that drops what the peers of ended TCP connections send. Thread-safe.
void end_hold_of(const ImageSource& image);

}  // namespace ckpt
