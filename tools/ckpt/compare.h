// What differs between two images.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/image/image.h"
#include "engine/store/store.h"

namespace ckpt::tool {

/// Pages of 4096 bytes in one mapping (of the first image, or of the second where the first has none there).
struct SegmentDifference {
  std::string process;          ///< "" for the root process, "children/PID/"
  uint64_t start = 0, end = 0;  ///< the mapping
  std::string mapping;          ///< its path in maps, "" for anonymous memory
  uint64_t changed = 0;         ///< stored in both images, with different content
  uint64_t only_a = 0;          ///< stored in the first image only
  uint64_t only_b = 0;
};

/// A field of a record: an empty list of values on the side where it is missing.
struct FieldDifference {
  std::string name;
  std::vector<std::string> a, b;
};

enum class Side { both, only_a, only_b };

/// A record (a descriptor's, a thread's registers, any other readable file) that differs.
struct RecordDifference {
  std::string path;
  Side side = Side::both;
  std::vector<FieldDifference> fields;  ///< for Side::both; empty where the file is no record
};

struct Comparison {
  std::vector<SegmentDifference> segments;
  std::vector<RecordDifference> descriptors;
  std::vector<RecordDifference> registers;
  std::vector<RecordDifference> others;
  bool same() const { return segments.empty() && descriptors.empty() && registers.empty() && others.empty(); }
};

/// Compares everything but the manifests, which tell times and digests. Memory is compared by address, page
/// by page, however it is cut into files. Throws what reading an image throws.
Comparison compare_images(const ImageSource& a, const ImageSource& b, const Progress& progress = {});

}  // namespace ckpt::tool
