// Everything that one mount consists of. One object a mount, made by main and handed to the FUSE session.
#pragma once

#include <memory>
#include <mutex>
#include <set>
#include <string>

#include "ckptfs/catalog.h"
#include "ckptfs/command_log.h"
#include "ckptfs/commands.h"
#include "ckptfs/core_source.h"
#include "ckptfs/counters.h"
#include "ckptfs/drop_box.h"
#include "ckptfs/images_dir.h"
#include "ckptfs/inode_table.h"
#include "ckptfs/workers.h"

namespace ckpt {

class Filesystem {
 public:
  /// `store_dir` is for statfs only. `cores` may be empty.
  Filesystem(Store& store, std::string store_dir, CoreFactory cores);

  InodeTable& inodes() { return *inodes_; }
  Workers& workers() { return workers_; }
  Commands& commands() { return commands_; }
  const std::string& store_dir() const { return store_dir_; }

  /// Work that has a caller waiting, so that the end of the mount can cut it short.
  void began(CancelFlag* work);
  void ended(CancelFlag* work);
  /// The mount ends: cancels all such work, now and from now on, and waits until every worker is at rest.
  void end();
  bool is_ending();
  /// Called once, at the first open of an image's file.
  void on_first_open(std::function<void()> f) { images_.first_open = std::move(f); }
  /// As StagingArea's; to be set before the mount is served.
  void on_change_of_name(const StagingArea::ForgetName& forget_name);
  std::string stats();

 private:
  const std::string store_dir_;
  std::mutex mutex_;   ///< guards under_way_ and ending_; innermost
  std::set<CancelFlag*> under_way_;
  bool ending_ = false;
  Counters counters_;
  CommandLog log_;
  Catalog catalog_;
  Commands commands_;
  ImageContext images_;
  std::shared_ptr<ImagesDir> images_dir_;
  std::shared_ptr<DropBox> drop_box_;
  std::unique_ptr<InodeTable> inodes_;
  Workers workers_;   ///< last, so that no job outlives what it works on
};

}  // namespace ckpt
