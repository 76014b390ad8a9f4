// restore/: a complete image that is copied here is resumed.
#pragma once

#include "ckptfs/counters.h"
#include "ckptfs/staging_area.h"

namespace ckpt {

class DropBox : public StagingArea {
 public:
  DropBox(Store& store, CommandLog& log, Counters& counters)
      : StagingArea(kRestoreIno, "restore", store, log), counters_(counters) {}

  struct stat stat() const override;
  NodePtr lookup(const Request&, const std::string& name) override;
  std::vector<DirEntry> list(const Request& request) override { return staged(request, true); }
  NodePtr make_directory(const Request&, const std::string& name, mode_t mode) override;
  void remove_directory(const Request&, const std::string& name) override;
  Work rename(const Request&, const std::string& name, Node& new_parent, const std::string& new_name) override;

  std::string complete(StagedImage& image, const Caller& caller, const CancelFlag& cancel) override;

 protected:
  /// After a failure the name stays, empty but for `error`, until it is removed or filled again.
  std::shared_ptr<StagedImage> successor(StagedImage& image, const Error* error) override;

 private:
  Counters& counters_;
};

}  // namespace ckpt
