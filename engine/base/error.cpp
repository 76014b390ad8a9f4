#include "engine/base/error.h"

#include <cstring>

namespace ckpt {

const char* errno_text(int err) {
  const char* text = strerrordesc_np(err);
  return text != nullptr ? text : "unknown error";
}

}  // namespace ckpt
