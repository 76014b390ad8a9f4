// The manifest: what an image says of itself, JSON at the image's root, the last file to be written.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/image/image.h"

namespace ckpt {

inline constexpr std::string_view kManifestName = "manifest";
inline constexpr int kFormatVersion = 1;

struct ManifestFile {
  EntryType type = EntryType::file;
  uint64_t size = 0;
  Digest digest;         ///< of a file's content, or of a link's target
};

/// Header facts that are known to the capture; the list of files is added by whoever finishes the image.
struct ManifestHeader {
  int format = kFormatVersion;
  std::string machine;   ///< uname -m: "x86_64"
  std::string kernel;    ///< uname -r
  std::string hostname;
  std::string engine;    ///< "ptrace" or "kernel"
  uint64_t time_ns = 0;  ///< CLOCK_REALTIME of the stop
  uint64_t stop_ns = 0;  ///< how long the process was stopped
  /// Bytes of pages that were new to the store. Not known of images of older versions, or taken elsewhere.
  std::optional<uint64_t> new_bytes;
  uint64_t xfeatures = 0;  ///< XCR0: the XSAVE features of the CPU
  int pid = 0;           ///< root process
  std::vector<int> pids; ///< every process, the root first
  std::string command;   ///< comm of the root process
  bool memory = true;    ///< false: registers and tables alone, nothing that could be resumed
  uint32_t uid = 0;      ///< owner of the image
  uint32_t gid = 0;
};

struct Manifest {
  ManifestHeader header;
  std::map<std::string, ManifestFile, std::less<>> files;  ///< every file and link but the manifest

  std::string to_json() const;
  /// `where` starts every message. Throws Error(EINVAL) for what is no manifest, EPROTONOSUPPORT for another format
  /// version, EXDEV... never for another machine (that is the resume's business). Bounded for hostile input.
  static Manifest parse(std::string_view json, const std::string& where);
};

/// Compares an image with its manifest: a missing, short, long, changed or unlisted file is Error(EINVAL) with a
/// sentence that names it ("images/1234: fds/3 was changed and not sealed (ckpt seal)"). `contents` false compares
/// names and sizes only. Returns the manifest.
Manifest verify_image(const ImageSource& image, bool contents = true);

/// Rewrites the manifest of an archive directory to fit its files as they are now. The header is kept.
void seal_directory(const std::string& dir);

}  // namespace ckpt
