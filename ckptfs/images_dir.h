// images/: the finished checkpoints; making a directory here begins an import.
#pragma once

#include "ckptfs/counters.h"
#include "ckptfs/image_nodes.h"
#include "ckptfs/staging_area.h"

namespace ckpt {

class ImagesDir : public StagingArea {
 public:
  ImagesDir(ImageContext& context, CommandLog& log, Counters& counters)
      : StagingArea(kImagesIno, "images", context.catalog.store(), log), context_(context), counters_(counters) {}

  struct stat stat() const override;
  NodePtr lookup(const Request&, const std::string& name) override;
  /// A user sees his own images, root sees all.
  std::vector<DirEntry> list(const Request&) override;
  NodePtr make_directory(const Request&, const std::string& name, mode_t mode) override;
  void remove_directory(const Request&, const std::string& name) override;
  Work rename(const Request&, const std::string& name, Node& new_parent, const std::string& new_name) override;
  std::pair<NodePtr, HandlePtr> create(const Request&, const std::string& name, mode_t, int) override {
    fail(EROFS, "images/{}: only a directory, an image, can be made here", name);
  }

  /// Takes the image into the store under the name it has here now.
  std::string complete(StagedImage& image, const Caller& caller, const CancelFlag& cancel) override;

 private:
  ImageContext& context_;
  Counters& counters_;
};

}  // namespace ckpt
