#include "ckptfs/slow_call.h"

#include <chrono>
#include <csignal>

#include "ckptfs/checked_call.h"
#include "engine/base/fd.h"
#include "engine/process/proc_status.h"

namespace ckpt {

namespace {

constexpr std::chrono::milliseconds kWatchInterval{10};

constexpr uint64_t bit(int signal) { return uint64_t{1} << (signal - 1); }

/// True where a signal waits for the thread that would end a system call for the user: not one that is ignored by
/// default. A child of a shell may end at any time, and must not cancel what the shell waits for.
bool wants_to_stop_waiting(pid_t tid) {
  constexpr uint64_t kHarmless = bit(SIGCHLD) | bit(SIGCONT) | bit(SIGURG) | bit(SIGWINCH);
  try {
    const std::string status = read_file(fmt::format("/proc/{}/status", tid), 1 << 16);
    const uint64_t pending = status_mask(status, "SigPnd") | status_mask(status, "ShdPnd");
    return (pending & ~status_mask(status, "SigBlk") & ~status_mask(status, "SigIgn") & ~kHarmless) != 0;
  } catch (const Error&) {
    return true;  // nobody waits any more
  }
}

}  // namespace

void SlowCall::start(Filesystem& filesystem, fuse_req_t fuse_request, const Request& request, Work work,
                     Success success) {
  const std::shared_ptr<SlowCall> call(
      new SlowCall(filesystem, fuse_request, request, std::move(work), std::move(success)));
  if (!call->work_.before_reply) {
    call->answer(call->success_);
  } else {
    // Calls interrupted() at once where the interrupt has come already. answer() takes it back, so the pointer is
    // good for as long as libfuse has it: the job below owns the call until it has answered.
    fuse_req_interrupt_func(fuse_request, &SlowCall::interrupted, call.get());
  }
  try {
    filesystem.workers().run([call] { call->run(); });
  } catch (...) {
    const int err = errno_of_current_exception("worker");
    call->answer([err](fuse_req_t r) { fuse_reply_err(r, err); });
  }
}

void SlowCall::run() {
  if (work_.before_reply) {
    int err = 0;
    filesystem_.began(&cancel_);
    try {
      work_.before_reply(cancel_);
    } catch (...) {
      err = errno_of_current_exception("command");
    }
    filesystem_.ended(&cancel_);
    answer(err == 0 ? success_ : [err](fuse_req_t r) { fuse_reply_err(r, err); });
  }
  if (work_.after_reply) work_.after_reply();
}

void SlowCall::answer(const Success& reply) {
  {
    const std::lock_guard lock(mutex_);
    if (answered_) return;
    answered_ = true;
  }
  changed_.notify_all();
  // Waits for an interrupted() that is running, and no other comes after it.
  fuse_req_interrupt_func(fuse_request_, nullptr, nullptr);
  reply(fuse_request_);
}

void SlowCall::interrupted(fuse_req_t, void* data) {
  const auto call = static_cast<SlowCall*>(data)->shared_from_this();
  try {
    call->filesystem_.workers().run([call] { call->watch(); });
  } catch (const std::exception&) {
    call->cancel_ = true;  // no thread to look at why: the user's wish is the likelier
  }
}

void SlowCall::watch() {
  // The kernel tells of one interrupt only, whatever comes after it: so look until there is an answer.
  const pid_t process = request_.process();
  std::unique_lock lock(mutex_);
  while (!answered_) {
    lock.unlock();
    if (process > 0 && being_captured(process)) {
      answer(success_);
    } else if (wants_to_stop_waiting(request_.tid)) {
      cancel_ = true;
    }
    lock.lock();
    changed_.wait_for(lock, kWatchInterval, [this] { return answered_; });
  }
}

}  // namespace ckpt
