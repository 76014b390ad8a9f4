// Resuming an image in place of the processes that still have its pids, or before its memory is there.
#pragma once

#include <functional>
#include <span>

#include "engine/engine.h"

namespace ckpt {

class LazyFill;

/// Given the pids of an image, whoever has them may be ended. What it throws is the resume's failure.
using MakeRoom = std::function<void(std::span<const pid_t>)>;

/// As resume(image, caller, options). `make_room` is called when all has been read, checked and opened that can be while the
/// pids of the image are in use, and nothing has been started; none where nobody may have them. `lazy` brings in the memory
/// while the processes run (memory/lazy_fill.h), null where they are to have it when they begin; it is started here.
ResumeResult resume(const ImageSource& image, const Caller& caller, const ResumeOptions& options,
                    const MakeRoom& make_room, LazyFill* lazy = nullptr);

/// Takes away what the checkpoint of an image has left in the system for its resume, where another image was resumed in its
/// place: the rule that drops what the peers of ended TCP connections send. Thread-safe.
void end_hold_of(const ImageSource& image);

}  // namespace ckpt
