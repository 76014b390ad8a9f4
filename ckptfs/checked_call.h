// The one place where exceptions become errnos.
#pragma once

#include <exception>
#include <new>
#include <system_error>

#include "ckptfs/fuse_api.h"
#include "engine/base/error.h"

namespace ckpt {

/// The errno for whatever is being handled in a catch block; logs it at debug level, or as an error where it is none
/// of ours.
int errno_of_current_exception(const char* operation);

/// Runs a handler that replies as the last thing it does, and replies with the errno where it throws instead.
template <typename F>
void checked_call(fuse_req_t request, const char* operation, F&& handler) {
  try {
    handler();
  } catch (...) {
    fuse_reply_err(request, errno_of_current_exception(operation));
  }
}

}  // namespace ckpt
