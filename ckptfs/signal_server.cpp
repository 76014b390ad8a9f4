#include "ckptfs/signal_server.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>

#include "ckptfs/filesystem.h"
#include "ckptfs/fuse_api.h"
#include "engine/base/error.h"
#include "kmod/ckpt_device.h"

namespace ckpt {

namespace {

constexpr const char* kDevice = "/dev/ckpt";

/// The process's end is the signal's: it is only left stopped here, and ends when the module hears of it.
Command command_for(const ckpt_request& request) {
  CheckpointCommand command;
  command.pid = request.pid;
  if (request.flags & CKPT_REQUEST_EXIT) command.after = AfterCapture::exit_but_root;
  return command;
}

void checkpoint_for(Filesystem& filesystem, const UniqueFd& device, const ckpt_request& request) {
  ckpt_answer answer = {};
  answer.id = request.id;
  CancelFlag cancel{false};
  filesystem.began(&cancel);
  try {
    const Request from{request.pid, request.uid, request.gid};
    filesystem.commands().run(command_for(request), from.caller(), LogKey::of(from), &cancel);
  } catch (const Error& error) {
    answer.error = error.err();
  } catch (const std::exception&) {
    answer.error = EIO;
  }
  filesystem.ended(&cancel);
  // ENOENT: it has not waited. Its image is there, or its sentence in ctl.
  if (::write(device.get(), &answer, sizeof answer) < 0 && errno != ENOENT) {
    fuse_log(FUSE_LOG_ERR, "%s: %d cannot be answered: %s\n", kDevice, request.pid, errno_text(errno));
  }
}

}  // namespace

UniqueFd open_signal_device() {
  UniqueFd device(::open(kDevice, O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (!device) {
    // EACCES: a plain user's mount. There is nothing to complain of.
    if (errno == EBUSY) fuse_log(FUSE_LOG_INFO, "%s: another mount serves the signals\n", kDevice);
    return {};
  }
  const __u32 version = CKPT_DEVICE_VERSION;
  if (::ioctl(device.get(), CKPT_IOC_VERSION, &version) != 0) {
    fuse_log(FUSE_LOG_ERR, "%s: the module is of another version; signals do not checkpoint\n", kDevice);
    return {};
  }
  return device;
}

SignalServer::SignalServer(Filesystem& filesystem, UniqueFd device) : filesystem_(filesystem) {
  if (!device) return;
  device_ = std::make_shared<UniqueFd>(std::move(device));
  end_.reset(::eventfd(0, EFD_CLOEXEC));
  if (!end_) fail_errno("eventfd");
  thread_ = std::thread([this] { serve(); });
}

SignalServer::~SignalServer() {
  if (!thread_.joinable()) return;
  ::eventfd_write(end_.get(), 1);
  thread_.join();
}

void SignalServer::serve() {
  for (;;) {
    pollfd fds[] = {{device_->get(), POLLIN, 0}, {end_.get(), POLLIN, 0}};
    if (::poll(fds, 2, -1) < 0) {
      if (errno == EINTR) continue;
      return;
    }
    if (fds[1].revents != 0) return;
    if (fds[0].revents != 0) take_request();
  }
}

void SignalServer::take_request() {
  ckpt_request request = {};
  if (::read(device_->get(), &request, sizeof request) != sizeof request) return;
  filesystem_.workers().run([&filesystem = filesystem_, device = device_, request] {
    checkpoint_for(filesystem, *device, request);
  });
}

}  // namespace ckpt
