// The file ctl: write commands, read their outcome.
//
// Every look-up gives a node with a number of its own: a blocked write(2) holds its inode's lock, and would keep the
// next `echo > ctl` waiting.
#pragma once

#include "ckptfs/commands.h"
#include "ckptfs/node.h"

namespace ckpt {

class CtlNode : public Node {
 public:
  explicit CtlNode(Commands& commands) : Node(next_dynamic_ino()), commands_(commands) {}

  static struct stat ctl_stat();
  struct stat stat() const override { return ctl_stat(); }
  /// `: > ctl` and touch are harmless.
  void set_attributes(const Request&, const struct stat&, const AttributeChanges& changes) override;
  HandlePtr open(const Request&, int flags) override;

 private:
  Commands& commands_;
};

}  // namespace ckpt
