// Copying an image directory into the drop box, as cp does.
#pragma once

#include <string>

#include "engine/image/image.h"

namespace ckpt::tool {

/// Copies every file and link of the image in `from` into the new directory `to`, the manifest last. Where
/// both are on one ckptfs, page references move, not pages. Throws Error: what open, write and close report;
/// the close of the last file reports a failed resume.
void copy_image(const std::string& from, const std::string& to);

}  // namespace ckpt::tool
