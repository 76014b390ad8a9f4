// An image as an ordinary directory: the archive that cp would make of it.
#pragma once

#include "engine/image/image.h"

namespace ckpt {

/// Writes every file and link of an image into the empty directory that `directory` is open on, the manifest last, and returns
/// when they are durable. Files are 0600, directories 0700; runs of zeros are holes. On an error whatever was written is
/// removed again. With the filesystem rights of the calling thread; follows no symbolic link. Throws Error, `name` being
/// the directory's: EEXIST where it is not empty.
void write_directory(const ImageSource& image, int directory, const std::string& name);

}  // namespace ckpt
