// timer_create: ids with gaps, time left, intervals and absolute times on several clocks; signals to the process and
// to one thread, with values; overruns.
#include "selfcheck.h"

#include <atomic>
#include <thread>

namespace {

// The kernel's own ids; glibc's timer_t hides them.
using TimerId = int;

TimerId create(clockid_t clock, int notify, int signal, int value, pid_t tid = 0) {
  struct sigevent event = {};
  event.sigev_notify = notify;
  event.sigev_signo = signal;
  event.sigev_value.sival_int = value;
  event._sigev_un._tid = tid;
  TimerId id = -1;
  must(syscall(SYS_timer_create, clock, &event, &id), "timer_create");
  return id;
}

void set(TimerId id, int64_t value, int64_t interval, int flags = 0) {
  const itimerspec spec = {as_timespec(interval), as_timespec(value)};
  must(syscall(SYS_timer_settime, id, flags, &spec, nullptr), "timer_settime");
}

void require_left(TimerId id, int64_t at_least, int64_t at_most, int64_t interval, const char* what) {
  itimerspec spec = {};
  REQUIRE(syscall(SYS_timer_gettime, id, &spec) == 0, "%s: timer %d: %s", what, id, strerror(errno));
  const int64_t left = spec.it_value.tv_sec * 1000000000LL + spec.it_value.tv_nsec;
  REQUIRE(left >= at_least && left <= at_most, "%s: %lld ns left", what, static_cast<long long>(left));
  REQUIRE(spec.it_interval.tv_sec * 1000000000LL + spec.it_interval.tv_nsec == interval, "%s: the interval is wrong",
          what);
}

std::atomic<int> ticks{0}, wrong{0};
std::atomic<pid_t> ticker{0};
std::atomic<bool> stop{false};

void on_tick(int, siginfo_t* info, void*) {
  if (thread_id() != ticker || info->si_value.sival_int != 42 || info->si_code != SI_TIMER) ++wrong;
  ++ticks;
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  constexpr int64_t s = 1'000'000'000;
  struct sigaction action = {};
  action.sa_sigaction = on_tick;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  must(sigaction(SIGRTMIN + 4, &action, nullptr), "sigaction");
  sigset_t blocked;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGRTMIN + 5);
  must(sigprocmask(SIG_BLOCK, &blocked, nullptr), "sigprocmask");
  std::thread thread([] {
    ticker = thread_id();
    while (!stop) sleep_ns(2'000'000);
  });
  wait_until([] { return ticker != 0; }, "the thread runs");

  const TimerId monotonic = create(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGUSR1, 1);
  const TimerId gap = create(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0);
  const TimerId realtime = create(CLOCK_REALTIME, SIGEV_SIGNAL, SIGUSR2, 2);
  const TimerId boottime = create(CLOCK_BOOTTIME, SIGEV_NONE, 0, 3);
  const TimerId cpu = create(CLOCK_PROCESS_CPUTIME_ID, SIGEV_SIGNAL, SIGUSR1, 4);
  const TimerId disarmed = create(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGUSR1, 5);
  const TimerId ticking = create(CLOCK_MONOTONIC, SIGEV_THREAD_ID, SIGRTMIN + 4, 42, ticker);
  const TimerId overrunning = create(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 5, 43);
  must(syscall(SYS_timer_delete, gap), "timer_delete");
  set(monotonic, 1000 * s, 7 * s);
  const int64_t absolute = now_ns(CLOCK_REALTIME) + 2000 * s;
  set(realtime, absolute, 0, TIMER_ABSTIME);
  set(boottime, 3000 * s, 8 * s);
  set(cpu, 4000 * s, 9 * s);
  set(ticking, s / 50, s / 50);
  set(overrunning, s / 200, s / 200);
  wait_until([] { return ticks > 2; }, "the timer ticks");
  ready();
  wait_for_go();

  require_left(monotonic, 960 * s, 1000 * s, 7 * s, "CLOCK_MONOTONIC");
  const int64_t rest = absolute - now_ns(CLOCK_REALTIME);
  require_left(realtime, rest - s, rest + 30 * s, 0, "CLOCK_REALTIME");
  require_left(boottime, 2960 * s, 3000 * s, 8 * s, "CLOCK_BOOTTIME");
  require_left(cpu, 3960 * s, 4000 * s, 9 * s, "CLOCK_PROCESS_CPUTIME_ID");
  require_left(disarmed, 0, 0, 0, "a disarmed timer");
  const int before = ticks;
  wait_until([&] { return ticks > before + 3; }, "the timer ticks again");
  REQUIRE(wrong == 0, "%d ticks came to the wrong thread or with a wrong value", wrong.load());
  stop = true;
  thread.join();

  // How often it had overrun cannot be given back to the kernel; that it goes on overrunning can be seen.
  long overruns = 0;
  wait_until([&] {
    siginfo_t info = {};
    const timespec limit = {5, 0};
    REQUIRE(sigtimedwait(&blocked, &info, &limit) == SIGRTMIN + 5, "the signal of the overrunning timer: %s",
            strerror(errno));
    REQUIRE(info.si_value.sival_int == 43 && info.si_code == SI_TIMER && info.si_timerid == overrunning,
            "the overrunning timer: value %d, code %d, timer %d", info.si_value.sival_int, info.si_code,
            info.si_timerid);
    overruns = syscall(SYS_timer_getoverrun, overrunning);
    REQUIRE(overruns >= info.si_overrun, "%ld overruns, but %d in the siginfo", overruns, info.si_overrun);
    sleep_ns(20'000'000);
    return overruns > 0;
  }, "the timer overruns");
  itimerspec spec;
  REQUIRE(syscall(SYS_timer_gettime, gap, &spec) == -1 && errno == EINVAL, "a deleted timer is back");
  const TimerId fresh = create(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0);
  for (TimerId id : {monotonic, realtime, boottime, cpu, disarmed, ticking, overrunning})
    REQUIRE(fresh != id, "a new timer has got the id %d of another", fresh);
  return passed();
}
