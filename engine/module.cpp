#include "engine/module.h"

#include <fcntl.h>
#include <sys/ioctl.h>

#include "engine/base/error.h"
#include "kmod/ckpt_device.h"

namespace ckpt {

UniqueFd open_module() {
  UniqueFd device = open_at(AT_FDCWD, "/dev/ckpt", O_RDONLY);
  const __u32 version = CKPT_DEVICE_VERSION;
  if (::ioctl(device.get(), CKPT_IOC_VERSION, &version) != 0) {
    fail(EPROTONOSUPPORT, "/dev/ckpt: the kernel module is of another version than this program");
  }
  return device;
}

UniqueFd open_module_for(EngineChoice engine, pid_t pid) {
  if (engine == EngineChoice::ptrace) return {};
  try {
    return open_module();
  } catch (const Error& e) {
    if (engine == EngineChoice::automatic) return {};
    fail(EOPNOTSUPP, "{}: the engine is to be the kernel's (engine=kernel), but {}", pid, e.sentence());
  }
}

bool module_serves() noexcept {
  try {
    return static_cast<bool>(open_module());
  } catch (const std::exception&) {
    return false;
  }
}

}  // namespace ckpt
