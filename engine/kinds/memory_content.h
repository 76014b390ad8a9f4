// The content of a memory object: runs of data in a sparse file, to and from `DIR/START-END` of an image.
#pragma once

#include "engine/kinds/kind.h"

namespace ckpt {

/// Writes the data of `file` (`size` bytes, holes left out) below the directory `dir` of the image. `constant` says
/// that nobody can change it any more: it is then read after the process goes on.
void capture_content(const CaptureContext& ctx, UniqueFd file, uint64_t size, bool constant, const std::string& dir,
                     const std::string& where);

/// Fills a file of `size` bytes of zeros. Throws Error(EINVAL) for runs that overlap or lie outside.
void restore_content(const RestoreContext& ctx, int file, uint64_t size, const std::string& dir);

}  // namespace ckpt
