#include "engine/memory/image_segments.h"

#include <algorithm>

namespace ckpt {

ImageSegments::ImageSegments(std::shared_ptr<const ImageSource> image, const std::string& prefix)
    : image_(std::move(image)) {
  const std::string dir = prefix + "segments";
  for (const ImageEntry& entry : image_->below(dir)) {
    const Range range = parse_range_name(std::string_view(entry.path).substr(dir.size() + 1), entry.path);
    segments_.push_back({range, entry.path});
    bytes_ += range.size();
  }
  std::ranges::sort(segments_, {}, [](const Segment& s) { return s.range.start; });
}

std::vector<SamePages> ImageSegments::within(Range range) const {
  std::vector<SamePages> out;
  auto it = std::ranges::upper_bound(segments_, range.start, {}, [](const Segment& s) { return s.range.end; });
  for (; it != segments_.end() && it->range.start < range.end; ++it) {
    const uint64_t start = std::max(range.start, it->range.start);
    const uint64_t end = std::min(range.end, it->range.end);
    out.push_back({start - range.start, end - start, it->path, start - it->range.start});
  }
  return out;
}

}  // namespace ckpt
