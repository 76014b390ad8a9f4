// Signals of a descriptor: owner (F_SETOWN), signal (F_SETSIG), O_ASYNC on a pipe.
#include "selfcheck.h"

#include <atomic>

namespace {
std::atomic<int> caught{0}, caught_fd{-1};
}

int main(int argc, char** argv) {
  begin(argc, argv);
  struct sigaction action = {};
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  action.sa_sigaction = [](int signal, siginfo_t* info, void*) {
    caught_fd = info->si_fd;
    caught = signal;
  };
  must(sigaction(SIGRTMIN + 2, &action, nullptr), "sigaction");
  int ends[2];
  must(pipe2(ends, O_NONBLOCK), "pipe2");
  must(fcntl(ends[0], F_SETOWN, getpid()), "F_SETOWN");
  must(fcntl(ends[0], F_SETSIG, SIGRTMIN + 2), "F_SETSIG");
  must(fcntl(ends[0], F_SETFL, O_NONBLOCK | O_ASYNC), "F_SETFL");
  ready();
  wait_for_go();
  REQUIRE(fcntl(ends[0], F_GETOWN) == getpid(), "the owner is %d", fcntl(ends[0], F_GETOWN));
  REQUIRE(fcntl(ends[0], F_GETSIG) == SIGRTMIN + 2, "the signal is %d", fcntl(ends[0], F_GETSIG));
  REQUIRE(fcntl(ends[0], F_GETFL) & O_ASYNC, "O_ASYNC is lost");
  REQUIRE(caught == 0, "a signal came from nowhere");
  REQUIRE(write(ends[1], "x", 1) == 1, "write: %s", strerror(errno));
  wait_until([] { return caught == SIGRTMIN + 2; }, "the signal comes");
  REQUIRE(caught_fd == ends[0], "the signal names descriptor %d", caught_fd.load());
  return passed();
}
