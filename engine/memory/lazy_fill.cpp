#include "engine/memory/lazy_fill.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <syslog.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <future>

#include "engine/base/error.h"
#include "engine/base/fd.h"
#include "engine/base/parallel.h"
#include "engine/base/sched.h"
#include "engine/process/procfs.h"

namespace ckpt {

using namespace std::chrono_literals;

/// What ends the processes by our own death, and what its calls name.
struct LazyFill::Guard {
  Guard(const std::vector<UniqueFd>& processes, const int* unknown) : log(::open("/dev/kmsg", O_WRONLY | O_CLOEXEC)) {
    for (const UniqueFd& fd : processes) polls.push_back({fd.get(), POLLIN, 0});
    guard.emplace(calls(unknown));
  }

  /// The descriptors are closed only when nobody can read zeros any more: when the processes have ended. A child of whom we
  /// have not learnt yet waits for ever, rather.
  std::vector<DeathGuard::Call> calls(const int* unknown) {
    std::vector<DeathGuard::Call> out;
    for (const pollfd& process : polls) out.push_back({SYS_pidfd_send_signal, {process.fd, SIGKILL}});
    out.push_back({SYS_write, {log ? log.get() : STDERR_FILENO, reinterpret_cast<long>(kMessage), sizeof kMessage - 1}});
    for (pollfd& process : polls) out.push_back({SYS_poll, {reinterpret_cast<long>(&process), 1, -1}});
    out.push_back({SYS_futex, {reinterpret_cast<long>(unknown), FUTEX_WAIT_PRIVATE, 1, 0}});
    return out;
  }

  static constexpr char kMessage[] = "ckptfs: has died while it filled the memory of resumed processes (lazy): they are ended\n";
  const UniqueFd log;
  std::vector<pollfd> polls;
  std::optional<DeathGuard> guard;
};

LazyFill::LazyFill(std::shared_ptr<const ImageSource> image, LazyFigures& figures)
    : image_(std::move(image)), figures_(figures) {}

LazyFill::~LazyFill() {
  stop_ = true;
  if (server_.joinable()) server_.join();
}

LazyFill::Spaces LazyFill::spaces() const {
  const std::lock_guard lock(mutex_);
  return spaces_;
}

uint64_t LazyFill::bytes_left() const {
  uint64_t bytes = 0;
  for (const auto& space : spaces()) bytes += space->bytes_left();
  return bytes;
}

void LazyFill::watch(pid_t pid) {
  UniqueFd fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!fd && errno != ESRCH) fail_errno("{}: pidfd_open", pid);
  known_.insert(pid);
  if (fd) pid_fds_.push_back(std::move(fd));
}

void LazyFill::start() {
  drop_done();
  if (spaces_.empty()) return;
  std::promise<void> ready;
  server_ = std::thread([this, &ready] {
    try {
      for (const auto& space : spaces_) {
        watch(space->pid());
        for (const ChildOf& child : list_children(open_proc(space->pid()).get())) known_.insert(child.pid);
      }
      // By the thread that will disarm it.
      guard_ = std::make_unique<Guard>(pid_fds_, &unknown_);
      under_way_ = true;
    } catch (...) {
      ready.set_exception(std::current_exception());
      return;
    }
    ready.set_value();
    serve();
  });
  ready.get_future().get();
}

void LazyFill::serve() noexcept {
  go_first();
  std::thread helper;
  try {
    helper = std::thread([this] {
      give_way();
      on_two_threads(std::thread::hardware_concurrency() > 1, [this] { fill_in_background(); });
    });
    serve_all();
    if (!spaces().empty()) lose(failure_.empty() ? "ckptfs ends" : failure_.c_str());
  } catch (const std::exception& error) {
    lose(error.what());
  }
  stop_ = true;
  if (helper.joinable()) helper.join();
  {
    const std::lock_guard lock(mutex_);
    spaces_.clear();   // closes the userfaultfds
  }
  guard_.reset();
  under_way_ = false;
}

void LazyFill::serve_all() {
  while (!stop_) {
    const bool busy = step_all();
    drop_done();
    if (spaces().empty()) return;
    if (unknown_ != 0) look_for_children();
    if (!busy) wait_for_messages(unknown_ != 0);
  }
}

/// True where there was something to do.
bool LazyFill::step_all() {
  bool busy = false;
  for (const auto& space : spaces()) {
    std::unique_ptr<LazySpace> child;
    busy |= space->step(child, unknown_);
    if (!child) continue;
    const std::lock_guard lock(mutex_);
    spaces_.push_back(std::move(child));
  }
  return busy;
}

void LazyFill::wait_for_messages(bool soon) {
  std::vector<pollfd> fds;
  for (const auto& space : spaces()) {
    fds.push_back({space->fd(), POLLIN, 0});
    soon |= space->has_deferred();
  }
  ::poll(fds.data(), fds.size(), soon ? 1 : 5);
}

void LazyFill::fill_in_background() noexcept {
  try {
    while (!stop_) {
      bool any = false;
      for (const auto& space : spaces()) any |= !stop_ && !paused_ && space->fill_next();
      if (!any) std::this_thread::sleep_for(200us);
    }
  } catch (const std::exception& error) {
    const std::lock_guard lock(mutex_);
    failure_ = error.what();
    stop_ = true;
  }
}

/// Those that have been forked since the fill began are guarded too. The new ones of a process come in the order of its
/// forks.
void LazyFill::look_for_children() {
  bool all = true, more = false;
  const Spaces now = spaces();
  for (const auto& unborn : now) {
    if (unborn->pid() != 0) continue;
    for (const auto& parent : now) {
      if (parent->pid() == 0 || unborn->pid() != 0) continue;
      try {
        for (const ChildOf& child : list_children(open_proc(parent->pid()).get())) {
          if (unborn->pid() != 0 || known_.contains(child.pid)) continue;
          watch(child.pid);
          unborn->set_pid(child.pid);
          more = true;
        }
      } catch (const Error&) {
        // The parent has ended.
      }
    }
    all &= unborn->pid() != 0;
  }
  if (more) {
    auto next = std::make_unique<Guard>(pid_fds_, &unknown_);
    guard_ = std::move(next);
  }
  if (all) __atomic_store_n(&unknown_, 0, __ATOMIC_SEQ_CST);
}

void LazyFill::drop_done() {
  const std::lock_guard lock(mutex_);
  spaces_.remove_if([](const auto& space) { return space->done(); });
}

void LazyFill::lose(const char* why) noexcept {
  bool any = false;   // else the resume has failed, and ended them
  for (const UniqueFd& fd : pid_fds_) any |= ::syscall(SYS_pidfd_send_signal, fd.get(), SIGKILL, nullptr, 0) == 0;
  for (const UniqueFd& fd : pid_fds_) {
    pollfd process = {fd.get(), POLLIN, 0};
    ::poll(&process, 1, -1);
  }
  if (any) ::syslog(LOG_DAEMON | LOG_ERR, "a resumed process is ended, since its memory cannot be brought in: %s", why);
}

// ---- LazySet ----

std::shared_ptr<LazyFill> LazySet::begin(std::shared_ptr<const ImageSource> image) {
  (void)under_way();
  const auto fill = std::make_shared<LazyFill>(std::move(image), figures_);
  const std::lock_guard lock(mutex_);
  fills_.push_back(fill);
  return fill;
}

void LazySet::end(const std::shared_ptr<LazyFill>& fill) noexcept {
  const std::lock_guard lock(mutex_);
  fills_.remove(fill);
}

/// Lets go of the complete ones.
std::list<std::shared_ptr<LazyFill>> LazySet::under_way() {
  std::list<std::shared_ptr<LazyFill>> now, complete;
  const std::lock_guard lock(mutex_);
  for (auto it = fills_.begin(); it != fills_.end();) {
    const auto next = std::next(it);
    if ((*it)->under_way()) {
      now.push_back(*it);
    } else if (it->use_count() == 1) {
      complete.splice(complete.end(), fills_, it);
    }
    it = next;
  }
  return now;
}

void LazySet::complete(const CancelFlag* cancel) {
  while (!under_way().empty()) {
    if (cancel != nullptr && cancel->load()) fail(EINTR, "cancelled while the memory of a resumed process is brought in");
    std::this_thread::sleep_for(1ms);
  }
}

size_t LazySet::size() { return under_way().size(); }

uint64_t LazySet::bytes_left() {
  uint64_t bytes = 0;
  for (const auto& fill : under_way()) bytes += fill->bytes_left();
  return bytes;
}

}  // namespace ckpt
