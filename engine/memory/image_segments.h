// Which memory of a process an image has.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/image/image.h"
#include "engine/image/maps.h"

namespace ckpt {

/// The segments of one process in an image, by address.
class ImageSegments {
 public:
  ImageSegments() = default;
  ImageSegments(std::shared_ptr<const ImageSource> image, const std::string& prefix);

  const ImageSource* image() const { return image_.get(); }
  uint64_t bytes() const { return bytes_; }
  /// The parts of `range` that are in the image, ascending; `at` counts from the start of `range`.
  std::vector<SamePages> within(Range range) const;

 private:
  struct Segment {
    Range range;
    std::string path;
  };
  std::shared_ptr<const ImageSource> image_;
  std::vector<Segment> segments_;
  uint64_t bytes_ = 0;
};

}  // namespace ckpt
