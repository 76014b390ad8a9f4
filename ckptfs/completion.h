// When is an image that is being copied in complete? When its manifest is whole and every file of it has been closed
// with its size, whatever the order, and whatever temporary names were used on the way.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>

#include "engine/image/manifest.h"

namespace ckpt {

/// Every call costs O(log files). Not thread-safe.
class Completion {
 public:
  /// The manifest has been closed, and is this, with the digest of the file itself.
  void set_manifest(Manifest manifest, const ManifestFile& itself = {});
  void drop_manifest() { manifest_.reset(); }
  bool has_manifest() const { return manifest_.has_value(); }

  /// The file was closed (or renamed, or the link made) and stands at `path` now.
  void settle(const std::string& path, EntryType type, uint64_t size);
  /// The file is being written, or has gone.
  void unsettle(const std::string& path);

  /// What the manifest tells of the file (of the manifest itself: of the text that was read), null where it has none.
  const ManifestFile* listed(const std::string& path) const;

  bool complete() const { return manifest_ && waiting_.empty(); }
  /// A file that is surely wrong, as a sentence without the image's name: it is longer than the manifest says, or all
  /// files are there and it is still too short.
  std::optional<std::string> wrong_file() const;
  /// What is still to come, as a sentence without the image's name.
  std::string waiting_for() const;

 private:
  struct Found {
    EntryType type;
    uint64_t size;
  };
  bool fits(const std::string& path, const ManifestFile& expected) const;

  std::optional<Manifest> manifest_;
  ManifestFile itself_;
  std::map<std::string, Found> settled_;
  std::set<std::string> waiting_;   ///< of the manifest's files: absent, unsettled or of a wrong size
};

}  // namespace ckpt
