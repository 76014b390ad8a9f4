// A resumed program in the foreground: it takes over our terminal or pipes, we take over its exit status.
#pragma once

#include "engine/image/image.h"

namespace ckpt::tool {

/// Resumes `image` as a child of this process, with our descriptors 0, 1 and 2 in place of those of the image
/// that were terminals or pipes to other programs; passes signals on to it and waits. Returns the exit code
/// for us: the program's, or 128 + n where signal n ended it. Throws Error where it could not be resumed.
/// Call from the main thread.
int run_in_foreground(const ImageSource& image);

}  // namespace ckpt::tool
