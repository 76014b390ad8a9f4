// signalfd: its mask, and pending signals read through it.
#include "selfcheck.h"

#include <sys/signalfd.h>

int main(int argc, char** argv) {
  begin(argc, argv);
  sigset_t blocked, first, second;
  sigemptyset(&first);
  sigaddset(&first, SIGUSR1);
  sigaddset(&first, SIGRTMIN + 1);
  sigemptyset(&second);
  sigaddset(&second, SIGUSR2);
  blocked = first;
  sigaddset(&blocked, SIGUSR2);
  must(sigprocmask(SIG_BLOCK, &blocked, nullptr), "sigprocmask");
  const int a = must(signalfd(-1, &first, SFD_NONBLOCK | SFD_CLOEXEC), "signalfd");
  const int b = must(signalfd(-1, &second, SFD_NONBLOCK), "signalfd");
  sigval value;
  for (int i = 0; i < 2; ++i) {
    value.sival_int = 50 + i;
    must(sigqueue(getpid(), SIGRTMIN + 1, value), "sigqueue");
  }
  must(kill(getpid(), SIGUSR2), "kill");
  ready();
  wait_for_go();
  signalfd_siginfo info;
  for (int i = 0; i < 2; ++i) {
    REQUIRE(read(a, &info, sizeof info) == sizeof info, "signal %d is not there: %s", i, strerror(errno));
    REQUIRE(info.ssi_signo == static_cast<unsigned>(SIGRTMIN + 1) && info.ssi_int == 50 + i, "signal %u with %d",
            info.ssi_signo, info.ssi_int);
  }
  REQUIRE(read(a, &info, sizeof info) == -1 && errno == EAGAIN, "the first signalfd has too many");
  REQUIRE(read(b, &info, sizeof info) == sizeof info && info.ssi_signo == SIGUSR2, "SIGUSR2 is not there");
  must(kill(getpid(), SIGUSR1), "kill");
  REQUIRE(read(b, &info, sizeof info) == -1 && errno == EAGAIN, "the second signalfd takes SIGUSR1");
  REQUIRE(read(a, &info, sizeof info) == sizeof info && info.ssi_signo == SIGUSR1, "SIGUSR1 does not come");
  REQUIRE(fcntl(a, F_GETFD) == FD_CLOEXEC && fcntl(b, F_GETFD) == 0, "close-on-exec is wrong");
  return passed();
}
