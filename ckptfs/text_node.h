// Read-only files whose text is made when they are opened: stats, restore/NAME/error.
#pragma once

#include <fcntl.h>

#include <functional>
#include <string>

#include "ckptfs/node.h"

namespace ckpt {

/// The text as it was at the open.
class TextHandle : public Handle {
 public:
  explicit TextHandle(std::string text) : text_(std::move(text)) {}
  bool direct_io() const override { return true; }
  uint64_t size() const override { return text_.size(); }
  void read(const Request&, uint64_t offset, size_t size, const Answer& answer) override {
    answer(slice(text_, offset, size));
  }

 private:
  const std::string text_;
};

class TextNode : public Node {
 public:
  TextNode(Ino ino, mode_t mode, uid_t uid, gid_t gid, std::function<std::string()> text)
      : Node(ino), mode_(mode), uid_(uid), gid_(gid), text_(std::move(text)) {}

  /// The size is the text's at this moment, for tools that trust it (tar).
  struct stat stat() const override {
    return make_stat(S_IFREG | mode_, uid_, gid_, text_().size(), 1, now());
  }
  HandlePtr open(const Request&, int flags) override {
    if ((flags & O_ACCMODE) != O_RDONLY) fail(EROFS, "this file is read-only");
    return std::make_shared<TextHandle>(text_());
  }

 private:
  const mode_t mode_;
  const uid_t uid_;
  const gid_t gid_;
  const std::function<std::string()> text_;
};

}  // namespace ckpt
