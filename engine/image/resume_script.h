// A program in the image that resumes it: executed, in the mount or in a copy anywhere, it becomes the foreground of the
// resumed program (ckpt restore -f), and ends as that does.
#pragma once

#include <string_view>

namespace ckpt {

inline constexpr std::string_view kResumeScriptName = "resume";

/// The directory is told with a slash: a name without one would be that of an image in the mount.
inline constexpr std::string_view kResumeScript = R"(#!/bin/sh
# Resumes this image in place of the caller, see ckpt-image(5).
exec ckpt restore --foreground "$(dirname "$0")/"
)";

/// Permission bits of a file of an image, for its owner.
constexpr unsigned permissions_of(std::string_view path) { return path == kResumeScriptName ? 0700 : 0600; }

}  // namespace ckpt
