#include "engine/process/death_guard.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/wait.h>

#include "engine/base/error.h"
#include "engine/process/bare.h"

namespace ckpt {

namespace {

constexpr size_t kStackSize = 16 << 10;

std::vector<DeathGuard::Call> kills(const std::vector<int>& pid_fds) {
  std::vector<DeathGuard::Call> calls;
  for (const int fd : pid_fds) calls.push_back({SYS_pidfd_send_signal, {fd, SIGKILL}});
  return calls;
}

}  // namespace

// Memory that we and the guard have in common; it outlives us with the guard.
struct DeathGuard::Shared {
  std::vector<Call> calls;
  const Call* first = nullptr;
  size_t count = 0;
  UniqueFd us;                   // pidfd of this process: readable when all of it has ended
  UniqueFd disarmed;             // eventfd
  pollfd watched[2] = {};
  alignas(16) char stack[kStackSize];

  CKPT_BARE static void run(void* arg);
};

CKPT_BARE void DeathGuard::Shared::run(void* arg) {
  auto* self = static_cast<Shared*>(arg);
  for (;;) {
    raw_call(SYS_poll, reinterpret_cast<long>(self->watched), 2, -1);
    // The disarming first: it may have been our last act.
    if (self->watched[0].revents != 0) break;
    if (self->watched[1].revents == 0) continue;
    for (size_t i = 0; i < self->count; ++i) {
      const Call& call = self->first[i];
      const long(&a)[5] = call.arguments;
      raw_call(call.number, a[0], a[1], a[2], a[3], a[4]);
    }
    break;
  }
  raw_call(SYS_exit_group, 0);
  __builtin_unreachable();
}

DeathGuard::DeathGuard(const std::vector<int>& pid_fds) : DeathGuard(kills(pid_fds)) {}

DeathGuard::DeathGuard(std::vector<Call> calls) : shared_(std::make_unique<Shared>()) {
  shared_->calls = std::move(calls);
  shared_->first = shared_->calls.data();
  shared_->count = shared_->calls.size();
  shared_->us.reset(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0)));
  if (!shared_->us) fail_errno("pidfd_open of ourselves");
  shared_->disarmed.reset(::eventfd(0, EFD_CLOEXEC));
  if (!shared_->disarmed) fail_errno("eventfd");
  shared_->watched[0] = {shared_->disarmed.get(), POLLIN, 0};
  shared_->watched[1] = {shared_->us.get(), POLLIN, 0};
  // It shares our memory: no handler of ours may run in it.
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  clone_args args = {};
  args.flags = CLONE_VM | CLONE_FILES | CLONE_FS;
  args.stack = reinterpret_cast<uint64_t>(shared_->stack);
  args.stack_size = sizeof(shared_->stack);
  const long r = clone_and_call(args, Shared::run, shared_.get());
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
  if (r < 0) fail(static_cast<int>(-r), "clone3: {}", errno_text(static_cast<int>(-r)));
  pid_ = static_cast<pid_t>(r);
}

void DeathGuard::disarm() noexcept {
  if (pid_ == 0) return;
  ::eventfd_write(shared_->disarmed.get(), 1);
  while (::waitpid(pid_, nullptr, __WALL) < 0 && errno == EINTR) {
  }
  pid_ = 0;
}

DeathGuard::~DeathGuard() { disarm(); }

}  // namespace ckpt
