#include "ckptfs/request_loop.h"

#include <linux/fuse.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>

#include "engine/base/error.h"

namespace ckpt {

namespace {

/// A request in hand for one to two of these has another thread read the next.
constexpr std::chrono::milliseconds kPatience{2};

/// Requests that move at least so many bytes are answered beside each other.
constexpr uint32_t kMuchData = 64 << 10;

/// Wakes a thread from its read of the device, and is blocked everywhere else; its handler does nothing.
constexpr int kWakeUp = SIGUSR1;

void mask_wake_up(int how) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, kWakeUp);
  ::pthread_sigmask(how, &set, nullptr);
}

/// What the kernel wrote (include/uapi/linux/fuse.h): a header, and the arguments behind it.
bool moves_much_data(const fuse_buf& buffer) {
  if (buffer.size < sizeof(fuse_in_header) || (buffer.flags & FUSE_BUF_IS_FD) != 0) return true;
  const auto* header = static_cast<const fuse_in_header*>(buffer.mem);
  if (header->opcode == FUSE_WRITE) return header->len >= kMuchData;
  if (header->opcode != FUSE_READ || buffer.size < sizeof *header + sizeof(fuse_read_in)) return false;
  return reinterpret_cast<const fuse_read_in*>(header + 1)->size >= kMuchData;
}

}  // namespace

RequestLoop::RequestLoop(fuse_session* session, unsigned max_threads)
    : session_(session), max_threads_(max_threads), ended_event_(::eventfd(0, EFD_CLOEXEC)) {
  if (!ended_event_) fail_errno("eventfd");
  struct sigaction action {};
  action.sa_handler = [](int) {};
  if (::sigaction(kWakeUp, &action, nullptr) != 0) fail_errno("sigaction");  // no SA_RESTART: the read ends with EINTR
}

RequestLoop::~RequestLoop() { end(); }

int RequestLoop::run(const std::function<void()>& before_end) {
  try {
    const std::lock_guard lock(mutex_);
    start_thread();
    watcher_ = std::thread([this] { watch(); });
  } catch (const std::system_error& error) {
    fail(error.code().value(), "no thread to serve the mount: {}", error.what());
  }
  sigset_t let_in;
  ::pthread_sigmask(SIG_SETMASK, nullptr, &let_in);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGQUIT}) ::sigdelset(&let_in, signal);
  pollfd event = {ended_event_.get(), POLLIN, 0};
  while (fuse_session_exited(session_) == 0) ::ppoll(&event, 1, nullptr, &let_in);
  before_end();
  end();
  return error_;
}

void RequestLoop::end() {
  ended_ = true;
  watched_ = 1;
  watched_.notify_one();
  if (watcher_.joinable()) watcher_.join();
  std::unique_lock lock(mutex_);
  changed_.notify_all();
  // A wake-up that comes just before the read is lost, so that it is repeated.
  while (left_ < threads_.size()) {
    if (reading_) ::pthread_kill(reader_, kWakeUp);
    changed_.wait_for(lock, kPatience);
  }
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
  left_ = 0;
}

void RequestLoop::start_thread() {
  threads_.emplace_back([this] { serve(); });
}

void RequestLoop::serve() {
  mask_wake_up(SIG_BLOCK);
  fuse_buf buffer{};
  while (become_reader()) read_in_turn(buffer);
  std::free(buffer.mem);  // libfuse's, from its malloc
  const std::lock_guard lock(mutex_);
  ++left_;
  changed_.notify_all();
}

bool RequestLoop::become_reader() {
  std::unique_lock lock(mutex_);
  ++idle_;
  changed_.wait(lock, [this] { return ended_ || !reading_; });
  --idle_;
  if (ended_) return false;
  reading_ = true;
  reader_ = ::pthread_self();
  return true;
}

void RequestLoop::hand_over() {
  const std::lock_guard lock(mutex_);
  reading_ = false;
  if (idle_ == 0 && threads_.size() < max_threads_ && !ended_) {
    try {
      start_thread();
    } catch (const std::system_error&) {
      return;  // whoever has answered next reads
    }
  }
  changed_.notify_one();
}

int RequestLoop::receive(fuse_buf& buffer) {
  mask_wake_up(SIG_UNBLOCK);
  const int got = fuse_session_receive_buf(session_, &buffer);
  mask_wake_up(SIG_BLOCK);
  return got;
}

void RequestLoop::read_in_turn(fuse_buf& buffer) {
  while (!ended_) {
    const int got = receive(buffer);
    if (got == -EINTR) continue;
    if (got <= 0) return leave(got);
    if (moves_much_data(buffer)) {
      hand_over();
      fuse_session_process_buf(session_, &buffer);
      return;
    }
    uint64_t in_hand = (progress_ | 1) + 2;
    progress_ = in_hand;
    if (watched_ == 0) {
      watched_ = 1;
      watched_.notify_one();
    }
    fuse_session_process_buf(session_, &buffer);
    if (!progress_.compare_exchange_strong(in_hand, in_hand - 1)) return;  // watch() has made another one the reader
  }
}

void RequestLoop::leave(int got) {
  {
    const std::lock_guard lock(mutex_);
    if (got < 0) error_ = got;
  }
  fuse_session_exit(session_);
  ended_ = true;
  ::eventfd_write(ended_event_.get(), 1);
  hand_over();
}

void RequestLoop::watch() {
  for (;;) {
    watched_.wait(0);
    if (ended_) return;
    uint64_t before = progress_;
    std::this_thread::sleep_for(kPatience);
    if (progress_ != before) continue;
    if ((before & 1) != 0) {
      if (progress_.compare_exchange_strong(before, before - 1)) hand_over();
    } else {
      watched_ = 0;
      if (progress_ != before || ended_) watched_ = 1;  // it came just before
    }
  }
}

}  // namespace ckpt
