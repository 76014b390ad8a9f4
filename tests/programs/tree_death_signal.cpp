// The parent-death signal: of a child whose parent ends, and of a child of a thread that ends.
#include <sys/prctl.h>

#include <thread>

#include "family.h"

namespace {

int death_signal() {
  int signo = 0;
  must(prctl(PR_GET_PDEATHSIG, &signo), "PR_GET_PDEATHSIG");
  return signo;
}

/// Waits, after DIR/go, for the signal that tells of its parent's end.
void wait_for_death() {
  sigset_t wanted;
  sigemptyset(&wanted);
  sigaddset(&wanted, SIGUSR1);
  must(sigprocmask(SIG_BLOCK, &wanted, nullptr), "sigprocmask");
  must(prctl(PR_SET_PDEATHSIG, SIGUSR1), "PR_SET_PDEATHSIG");
}

void require_death(const char* who) {
  sigset_t wanted;
  sigemptyset(&wanted);
  sigaddset(&wanted, SIGUSR1);
  REQUIRE(death_signal() == SIGUSR1, "%s: the death signal is %d", who, death_signal());
  sigset_t pending;
  sigpending(&pending);
  REQUIRE(sigismember(&pending, SIGUSR1) == 0, "%s: the signal has come too early", who);
  write_file("waits", "", 0);
  const timespec limit = {20, 0};
  REQUIRE(sigtimedwait(&wanted, nullptr, &limit) == SIGUSR1, "%s: no signal of the parent's end", who);
}

}  // namespace

int main(int argc, char** argv) {
  begin(argc, argv);
  Roll roll;
  std::atomic<pid_t> of_thread{0};
  std::atomic<bool> end{false};
  std::thread maker([&] {
    of_thread = child([&] {
      wait_for_death();
      roll.here();
      wait_for_go();
      require_death("the child of a thread");
    });
    while (!end) sleep_ns(1'000'000);
  });
  wait_until([&] { return of_thread != 0; }, "a thread has made a child");
  roll.wait_for(1);
  ready();
  wait_for_go();
  wait_until([] { return access(path("waits").c_str(), F_OK) == 0; }, "the child of a thread waits");
  sleep_ns(1'000'000);
  REQUIRE(waitpid(of_thread, nullptr, WNOHANG) == 0, "the child of a thread has not waited for the thread's end");
  end = true;
  maker.join();
  join(of_thread);
  return passed();
}
