// Pending signals with their values: queued real-time signals in their order, ordinary ones, some for the process and
// some for one thread.
#include "selfcheck.h"

#include <pthread.h>

#include <atomic>
#include <thread>

namespace {

sigset_t waited;
std::atomic<bool> set_up{false}, verify{false};

// The system call itself: glibc's turns SI_TKILL into SI_USER.
int take(siginfo_t* info, const timespec* limit) {
  return static_cast<int>(syscall(SYS_rt_sigtimedwait, &waited, info, limit, 8));
}

void expect(int signal, int code, int value, const char* what) {
  siginfo_t info = {};
  const timespec none = {};
  const int got = take(&info, &none);
  REQUIRE(got == signal, "%s: signal %d is next, not %d", what, got, signal);
  REQUIRE(info.si_code == code && info.si_pid == getpid() && info.si_uid == getuid(), "%s: code %d, pid %d, uid %u",
          what, info.si_code, info.si_pid, info.si_uid);
  if (code == SI_QUEUE) REQUIRE(info.si_value.sival_int == value, "%s: value %d, not %d", what,
                                info.si_value.sival_int, value);
}

void expect_none(const char* what) {
  siginfo_t info = {};
  const timespec none = {};
  const int got = take(&info, &none);
  REQUIRE(got == -1 && errno == EAGAIN, "%s: there is one more signal, %d", what, got);
}

void queue_to_thread(int signal, int value) {
  sigval v;
  v.sival_int = value;
  must(pthread_sigqueue(pthread_self(), signal, v) ? -1 : 0, "pthread_sigqueue");
}

void other_thread() {
  queue_to_thread(SIGRTMIN + 2, 21);
  queue_to_thread(SIGRTMIN + 2, 22);
  pthread_kill(pthread_self(), SIGUSR2);
  set_up = true;
  while (!verify) sleep_ns(2'000'000);
  // A thread's own pending signals come before those of the process.
  expect(SIGUSR2, SI_TKILL, 0, "pending for a thread");
  expect(SIGRTMIN + 2, SI_QUEUE, 21, "pending for a thread");
  expect(SIGRTMIN + 2, SI_QUEUE, 22, "pending for a thread");
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  sigemptyset(&waited);
  for (int s : {SIGUSR1, SIGUSR2, SIGTERM}) sigaddset(&waited, s);
  for (int i = 0; i < 6; ++i) sigaddset(&waited, SIGRTMIN + i);
  must(sigprocmask(SIG_BLOCK, &waited, nullptr), "sigprocmask");
  std::thread other(other_thread);
  wait_until([] { return set_up.load(); }, "the thread has its signals");
  sigval value;
  for (int i = 0; i < 3; ++i) {
    value.sival_int = 100 + i;
    must(sigqueue(getpid(), SIGRTMIN + 3, value), "sigqueue");
  }
  value.sival_int = 7;
  must(sigqueue(getpid(), SIGRTMIN + 1, value), "sigqueue");
  must(kill(getpid(), SIGTERM), "kill");
  must(kill(getpid(), SIGTERM), "kill");
  value.sival_int = 8;
  must(sigqueue(getpid(), SIGUSR1, value), "sigqueue");
  pthread_kill(pthread_self(), SIGUSR2);
  const std::string thread_pending = status_line("SigPnd"), pending = status_line("ShdPnd");
  ready();
  auto check = [&] {
    REQUIRE(status_line("SigPnd") == thread_pending, "SigPnd was %s, is %s", thread_pending.c_str(),
            status_line("SigPnd").c_str());
    REQUIRE(status_line("ShdPnd") == pending, "ShdPnd was %s, is %s", pending.c_str(), status_line("ShdPnd").c_str());
  };
  wait_for_go(check);
  check();
  verify = true;
  other.join();
  expect(SIGUSR2, SI_TKILL, 0, "pending for the main thread");
  expect(SIGUSR1, SI_QUEUE, 8, "an ordinary signal with a value");
  expect(SIGTERM, SI_USER, 0, "an ordinary signal");
  expect(SIGRTMIN + 1, SI_QUEUE, 7, "the lowest real-time signal");
  for (int i = 0; i < 3; ++i) expect(SIGRTMIN + 3, SI_QUEUE, 100 + i, "a queued real-time signal");
  expect_none("at the end");
  return passed();
}
