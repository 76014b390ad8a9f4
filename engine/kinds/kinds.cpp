// The table of descriptor kinds: a new kind is one pair of files and one line here.

#include "engine/kinds/chardev.h"
#include "engine/kinds/directory.h"
#include "engine/kinds/file.h"
#include "engine/kinds/kind.h"
#include "engine/kinds/other.h"
#include "engine/kinds/pipe.h"

namespace ckpt {

const std::vector<const DescriptorKind*>& descriptor_kinds() {
  static const std::vector<const DescriptorKind*> kinds = {
      &file_kind(), &directory_kind(), &pipe_kind(), &chardev_kind(),
      &other_kind(),  // matches everything
  };
  return kinds;
}

}  // namespace ckpt
