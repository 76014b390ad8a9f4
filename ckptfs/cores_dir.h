// cores/: NAME for the root process of an image, NAME.PID for its descendants.
#pragma once

#include <map>
#include <mutex>

#include "ckptfs/catalog.h"
#include "ckptfs/core_source.h"
#include "ckptfs/node.h"

namespace ckpt {

class CoresDir : public Node {
 public:
  CoresDir(Catalog& catalog, CoreFactory factory)
      : Node(kCoresIno), catalog_(catalog), factory_(std::move(factory)) {}

  struct stat stat() const override;
  double entry_timeout() const override { return kForever; }
  NodePtr lookup(const Request&, const std::string& name) override;
  std::vector<DirEntry> list(const Request&) override;

 private:
  NodePtr make(std::shared_ptr<const StoredImage> image, size_t process);

  Catalog& catalog_;
  const CoreFactory factory_;
  const struct timespec started_ = now();
  std::mutex mutex_;   ///< guards made_; innermost
  std::map<Ino, std::weak_ptr<Node>> made_;
};

}  // namespace ckpt
