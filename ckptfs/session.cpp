#include "ckptfs/session.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <fstream>
#include <memory>
#include <mutex>
#include <sstream>

#include "ckptfs/operations.h"
#include "ckptfs/request_loop.h"
#include "engine/base/record.h"

namespace ckpt {

namespace {

sigset_t ending_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGQUIT}) sigaddset(&set, signal);
  return set;
}

/// "MAJOR:MINOR" of the device mounted at `mountpoint` last, from /proc/self/mountinfo (proc(5)); a stat of the mount
/// point would wait for ourselves.
std::string device_of_mount(const std::string& mountpoint) {
  std::ifstream mounts("/proc/self/mountinfo");
  std::string device;
  for (std::string line; std::getline(mounts, line);) {
    const std::vector<std::string> fields = split_words(line);
    if (fields.size() > 4 && unescape(fields[4]) == mountpoint) device = fields[2];
  }
  return device;
}

/// The kernel begins with 128 KiB, and a sequential reader gets twice the speed with a megabyte. For root only, and
/// only after the mount is initialised, which sets it.
void raise_readahead(const std::string& mountpoint) {
  const std::string device = device_of_mount(mountpoint);
  if (device.empty()) return;
  std::ofstream("/sys/class/bdi/" + device + "/read_ahead_kb") << 1024;
}

}  // namespace

BlockedSignals::BlockedSignals() {
  const sigset_t set = ending_signals();
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

void BlockedSignals::unblock() {
  const sigset_t set = ending_signals();
  ::pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

Session::Session(fuse_args& args, const Options& options, Filesystem& filesystem)
    : options_(options), filesystem_(filesystem) {
  session_ = fuse_session_new(&args, &fuse_operations(), sizeof(fuse_lowlevel_ops), &filesystem);
  if (session_ == nullptr) fail(EINVAL, "an option is not known, or not valid");
  if (fuse_session_mount(session_, options.mountpoint.c_str()) != 0) {
    fuse_session_destroy(session_);
    fail(EIO, "{}: cannot be mounted on", options.mountpoint);
  }
  filesystem.on_first_open([mountpoint = options.mountpoint, once = std::make_shared<std::once_flag>()] {
    std::call_once(*once, [&] { raise_readahead(mountpoint); });
  });
  filesystem.on_change_of_name([session = session_](Ino directory, const std::string& name) {
    // ENOENT, for one: the kernel has forgotten it by itself.
    fuse_lowlevel_notify_inval_entry(session, directory, name.c_str(), name.size());
  });
}

Session::~Session() {
  fuse_session_unmount(session_);
  fuse_session_destroy(session_);
}

int Session::serve() {
  if (fuse_set_signal_handlers(session_) != 0) fail(EIO, "the signal handlers cannot be set");
  int result = 0;
  if (options_.single_threaded) {
    BlockedSignals::unblock();
    result = fuse_session_loop(session_);
    filesystem_.end();  // before the session goes: the workers answer on it
  } else {
    // Whatever may wait has a worker of its own; these threads copy pages and answer from memory.
    constexpr unsigned kThreads = 32;
    // libfuse's own default, 10, cannot be told from a wish; -s is there for whoever wants one thread.
    result = RequestLoop(session_, std::max(options_.max_threads, kThreads)).run([this] { filesystem_.end(); });
  }
  // The store is still to be closed: a second signal, or the first one just after an unmount, must not cut that short.
  const BlockedSignals until_the_end;
  fuse_remove_signal_handlers(session_);
  // ECONNABORTED: unmounted by force (umount -f, or abort in /sys/fs/fuse/connections), which is an end like any other.
  return result < 0 && result != -ECONNABORTED ? 1 : 0;  // a positive result is the signal that ended it: what it is for
}

}  // namespace ckpt
