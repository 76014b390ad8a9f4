#include "ckptfs/checked_call.h"

#include <fuse_log.h>

namespace ckpt {

int errno_of_current_exception(const char* operation) {
  try {
    throw;
  } catch (const Error& error) {
    fuse_log(FUSE_LOG_DEBUG, "%s: %s (%s:%u)\n", operation, error.what(), error.where().file,
             error.where().line);
    // The kernel takes no others as an answer; what lies above is for its own use (ERESTARTSYS, ...).
    return error.err() > 0 && error.err() < 512 ? error.err() : EIO;
  } catch (const std::bad_alloc&) {
    fuse_log(FUSE_LOG_ERR, "ckptfs: %s: out of memory\n", operation);
    return ENOMEM;
  } catch (const std::exception& error) {
    fuse_log(FUSE_LOG_ERR, "ckptfs: %s: %s\n", operation, error.what());
    return EIO;
  }
}

}  // namespace ckpt
